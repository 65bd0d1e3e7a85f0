package integration

import (
	"errors"
	"path/filepath"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// integrationFile is one integration as it is written down. The names are a
// promise: they are never renamed.
type integrationFile struct {
	ID          string        `yaml:"id"`
	DisplayName string        `yaml:"display_name"`
	Kind        string        `yaml:"kind"`
	Azure       *azureSection `yaml:"azure"`
	AWS         *awsSection   `yaml:"aws"`
	GCP         *gcpSection   `yaml:"gcp"`
	Vault       *vaultSection `yaml:"vault"`
	Local       *localSection `yaml:"local"`
	Cache       struct {
		TTL      strictyaml.Duration `yaml:"ttl"`
		MaxStale strictyaml.Duration `yaml:"max_stale"`
	} `yaml:"cache"`
	Limits    limitsSection  `yaml:"limits"`
	Placement Placement      `yaml:"placement"`
	Grants    []grantSection `yaml:"grants"`
	Roles     rolesSection   `yaml:"roles"`
}

type limitsSection struct {
	MaxConcurrentReads int                 `yaml:"max_concurrent_reads"`
	ReadsPerSecond     int                 `yaml:"reads_per_second"`
	Timeout            strictyaml.Duration `yaml:"timeout"`
}

type grantSection struct {
	Principals []string `yaml:"principals"`
	Vaults     []string `yaml:"vaults"`
	Stores     []string `yaml:"stores"` // another name of vaults
	Secrets    []string `yaml:"secrets"`
	Keys       []string `yaml:"keys"`
}

// The bounds of cache.ttl; the upper one holds for cache.max_stale too.
const (
	minCacheTTL = time.Second
	maxCacheTTL = 24 * time.Hour
)

// maxDisplayName is in bytes.
const maxDisplayName = 256

var validID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// ParsedFile is what came of one file's content.
type ParsedFile struct {
	// Claims is the id that the content asks for, "" if it cannot be told, and
	// Line where it does.
	Claims string
	Line   int
	// Ungranted: there are no grants, so nobody may use the integration.
	Ungranted bool
	// Integration is without a Revision; nil if there are Faults.
	Integration *Integration
	Faults      strictyaml.Faults
	// Files are those that the content names, in the order of the settings.
	Files []NamedFile
}

// parser validates the content of one file.
type parser struct {
	dir   string // relative paths begin here
	doc   *strictyaml.Document
	check func(NamedFile) (fault string)
	refs  []NamedFile
	// stored are the credentials that are kept apart from the content, and used
	// those of them that it has use for. A file keeps none.
	stored map[string]Credential
	used   map[string]bool
	// mayRead, if not nil, says which directories of this machine the content may
	// have read, and that it may name none of its environment variables.
	mayRead func(dir string) bool
}

// ParseFile parses and validates data, the content of the file at path.
// check says what is wrong with a file that the content names.
func ParseFile(path string, data []byte, check func(NamedFile) (fault string)) ParsedFile {
	p := &parser{dir: filepath.Dir(path), check: check}
	return p.parse(path, data)
}

// parse is for one document; faults call it name.
func (p *parser) parse(name string, data []byte) ParsedFile {
	var f integrationFile
	p.doc = strictyaml.Decode(name, data, &f)
	in := &Integration{ID: f.ID, DisplayName: f.DisplayName, CacheTTL: time.Duration(f.Cache.TTL), CacheMaxStale: time.Duration(f.Cache.MaxStale)}
	out := ParsedFile{Line: p.doc.Line("id"), Ungranted: len(f.Grants) == 0}
	switch {
	case !p.doc.Has("id"):
		p.doc.Fault("id", "missing; it is required: the name that connectors' configurations use")
	case !validID.MatchString(f.ID):
		p.doc.Fault("id", "expected 1 to 64 letters, digits, dots, underscores and hyphens")
	default:
		out.Claims = f.ID
	}
	if len(f.DisplayName) > maxDisplayName || containsControl(f.DisplayName) {
		p.doc.Fault("display_name", "expected one line of at most %d bytes", maxDisplayName)
	}
	if p.doc.Has("cache.ttl") && (in.CacheTTL < minCacheTTL || in.CacheTTL > maxCacheTTL) {
		p.doc.Fault("cache.ttl", "expected 1s to 24h")
	}
	if in.CacheMaxStale < 0 || in.CacheMaxStale > maxCacheTTL {
		p.doc.Fault("cache.max_stale", "expected 0s to 24h")
	}
	in.Limits = p.limits(f.Limits)
	in.Placement = p.placement(secret.Kind(f.Kind), f.Placement)
	in.Roles = p.roles(f.Roles)
	p.kind(&f, in)
	out.Files = p.refs
	if out.Faults = p.doc.Faults(); len(out.Faults) == 0 {
		out.Integration = in
	}
	return out
}

// kind validates the section that belongs to the integration's kind, refuses
// those of others, and compiles the grants for the section's stores.
func (p *parser) kind(f *integrationFile, in *Integration) {
	in.Kind = secret.Kind(f.Kind)
	if !in.Kind.Known() {
		fault := "expected " + kindList()
		if f.Kind == "" {
			fault = "missing; it is required: " + kindList()
		}
		p.doc.Fault("kind", "%s", fault)
		return
	}
	var stores []string
	for _, s := range []struct {
		name  string
		kind  secret.Kind
		there bool
		parse func() []string
	}{
		{"azure", secret.KindAzureKeyVault, f.Azure != nil, func() []string { in.Azure = p.azure(f.Azure); return in.Azure.Vaults }},
		{"aws", secret.KindAWSSecretsManager, f.AWS != nil, func() []string { in.AWS = p.aws(f.AWS); return in.AWS.Stores }},
		{"gcp", secret.KindGCPSecretManager, f.GCP != nil, func() []string { in.GCP = p.gcp(f.GCP); return in.GCP.Stores }},
		{"vault", secret.KindHashiCorpVault, f.Vault != nil, func() []string { in.Vault = p.vault(f.Vault); return in.Vault.Stores() }},
		{"local", secret.KindLocalFile, f.Local != nil, func() []string { in.Local = p.local(f.Local); return in.Local.Stores() }},
	} {
		switch {
		case s.kind != in.Kind && p.doc.Has(s.name):
			p.doc.Fault(s.name, "does not belong to the kind %s; take it out or change the kind", in.Kind)
		case s.kind == in.Kind && !s.there:
			p.doc.Fault(s.name, "missing; the kind %s requires it", in.Kind)
		case s.kind == in.Kind:
			stores = s.parse()
		}
	}
	grants := f.Grants
	if in.AWS != nil {
		grants = in.AWS.widen(grants)
	}
	in.Policy = p.policy(in.Kind, stores, grants)
}

func kindList() string {
	kinds := secret.Kinds()
	text := make([]string, len(kinds))
	for i, k := range kinds {
		text[i] = string(k)
	}
	return strings.Join(text[:len(text)-1], ", ") + " or " + text[len(text)-1]
}

// limits validates the section. What it leaves out is the broker's to decide.
func (p *parser) limits(s limitsSection) Limits {
	l := Limits{MaxConcurrentReads: s.MaxConcurrentReads, ReadsPerSecond: s.ReadsPerSecond, Timeout: time.Duration(s.Timeout)}
	if p.doc.Has("limits.max_concurrent_reads") && (l.MaxConcurrentReads < 1 || l.MaxConcurrentReads > 1024) {
		p.doc.Fault("limits.max_concurrent_reads", "expected 1 to 1024")
	}
	if l.ReadsPerSecond < 0 || l.ReadsPerSecond > 100_000 {
		p.doc.Fault("limits.reads_per_second", "expected 1 to 100000, or 0 for as many as the store takes")
	}
	if p.doc.Has("limits.timeout") && (l.Timeout < time.Second || l.Timeout > 10*time.Second) {
		p.doc.Fault("limits.timeout", "expected 1s to 10s")
	}
	return l
}

func containsControl(s string) bool {
	for _, r := range s {
		if unicode.IsControl(r) {
			return true
		}
	}
	return false
}

// policy compiles the grants. Where that is not possible it returns nil, which
// denies everything.
func (p *parser) policy(kind secret.Kind, stores []string, sections []grantSection) *authz.Policy {
	grants := make([]authz.Grant, len(sections))
	for i, g := range sections {
		grants[i] = authz.Grant{Principals: g.Principals, Stores: g.Vaults, Secrets: g.Secrets, Keys: g.Keys}
		if at := strictyaml.Index("grants", i); p.doc.Has(at + ".stores") {
			grants[i].Stores = g.Stores
			if p.doc.Has(at + ".vaults") {
				p.doc.Fault(at+".stores", "another name for vaults, which is there too; leave out one of the two")
			}
		}
	}
	policy, err := authz.NewPolicy(kind, stores, grants)
	if err == nil {
		return policy
	}
	faults := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		faults = joined.Unwrap()
	}
	for _, err := range faults {
		var g *authz.GrantError
		if !errors.As(err, &g) {
			p.doc.Fault("grants", "%v", err)
			continue
		}
		path := strictyaml.Index("grants", g.Grant) + "." + g.Field
		if at := strictyaml.Index("grants", g.Grant) + ".stores"; g.Field == "vaults" && p.doc.Has(at) {
			path = at
		}
		if g.Index >= 0 {
			path = strictyaml.Index(path, g.Index)
		}
		p.doc.Fault(path, "%s", g.Text)
	}
	return nil
}

// isStored reports whether the credential whose file the setting at path would
// name is kept apart, and notes that it is used. A file that is named comes first.
func (p *parser) isStored(path string) bool {
	name, ok := strings.CutSuffix(path, "_file")
	if !ok || p.stored[name] == nil || p.doc.Has(path) {
		return false
	}
	p.used[name] = true
	return true
}

// file notes that the setting at path names a file, and returns its absolute
// path. Faults leave the name out: a credential may stand there by mistake.
func (p *parser) file(path, name string, use FileUse) string {
	if name == "" {
		return ""
	}
	if !filepath.IsAbs(name) {
		if p.dir == "" {
			p.doc.Fault(path, "expected an absolute path: this document lies in no directory")
			return name
		}
		name = filepath.Join(p.dir, name)
	}
	ref := NamedFile{Path: name, Use: use}
	p.refs = append(p.refs, ref)
	if fault := p.check(ref); fault != "" {
		p.doc.Fault(path, "%s", fault)
	}
	return name
}
