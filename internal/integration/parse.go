package integration

import (
	"errors"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// The bounds of cache.ttl; the upper bound also applies to cache.max_stale.
const (
	minCacheTTL = time.Second
	maxCacheTTL = 24 * time.Hour
)

// maxDisplayName is the maximum length, in bytes.
const maxDisplayName = 256

// ParsedFile is the result of parsing the content of one file.
type ParsedFile struct {
	// DeclaredID is the id that the content declares, or "" if it cannot be
	// determined, and Line is its line.
	DeclaredID string
	Line       int
	// Ungranted is whether there are no grants, so that no principal may use the
	// integration.
	Ungranted bool
	// Integration is nil if there are Faults. Its Revision is not set.
	Integration *Integration
	Faults      strictyaml.Faults
	// Files are the files that the content refers to, in the order of the settings.
	Files []NamedFile
}

// Parser validates the content of one document. Kinds use it to validate their sections.
type Parser struct {
	dir   string // relative paths are resolved against it
	doc   *strictyaml.Document
	kinds *Kinds
	check func(NamedFile) (fault string)
	refs  []NamedFile
	// stored are the credentials that are stored separately from the document, and used
	// those of them that the document uses. Integrations in files have none.
	stored map[string]Credential
	used   map[string]bool
	// mayRead, if not nil, reports which directories of this machine the document may
	// refer to. The document may then not refer to environment variables.
	mayRead func(dir string) bool
}

// ParseFile parses and validates data, the content of the file at path. check returns what
// is wrong with a file that the content refers to.
func (k *Kinds) ParseFile(path string, data []byte, check func(NamedFile) (fault string)) ParsedFile {
	p := &Parser{kinds: k, dir: filepath.Dir(path), check: check}
	return p.parse(path, data)
}

// parse parses one document. name is its name in faults.
func (p *Parser) parse(name string, data []byte) ParsedFile {
	var f Document
	doc, sections := decode(p.kinds.typed, name, data, &f)
	p.doc = doc
	in := &Integration{ID: f.ID, DisplayName: f.DisplayName, CacheTTL: time.Duration(f.Cache.TTL), CacheMaxStale: time.Duration(f.Cache.MaxStale)}
	out := ParsedFile{Line: p.doc.Line("id"), Ungranted: len(f.Grants) == 0}
	switch {
	case !p.Has("id"):
		p.Fault("id", "missing; it is required: the name that connectors' configurations use")
	case !ValidID(f.ID):
		p.Fault("id", "expected %s", IDRule)
	default:
		out.DeclaredID = f.ID
	}
	if len(f.DisplayName) > maxDisplayName || ContainsControl(f.DisplayName) {
		p.Fault("display_name", "expected one line of at most %d bytes", maxDisplayName)
	}
	if p.Has("cache.ttl") && (in.CacheTTL < minCacheTTL || in.CacheTTL > maxCacheTTL) {
		p.Fault("cache.ttl", "expected 1s to 24h")
	}
	if in.CacheMaxStale < 0 || in.CacheMaxStale > maxCacheTTL {
		p.Fault("cache.max_stale", "expected 0s to 24h")
	}
	in.Reads = p.reads(f.Reads)
	in.Placement = p.placement(f.Kind, f.Placement)
	in.Roles = p.roles(f.Roles)
	p.kind(&f, sections, in)
	out.Files = p.refs
	if out.Faults = p.doc.Faults(); len(out.Faults) == 0 {
		out.Integration = in
	}
	return out
}

// kind validates the section of the integration's kind, rejects sections of other kinds,
// and compiles the grants for the section's stores.
func (p *Parser) kind(f *Document, sections reflect.Value, in *Integration) {
	in.Kind = f.Kind
	own, known := p.kinds.Spec(in.Kind)
	if !known {
		fault := "expected " + p.kinds.list()
		if f.Kind == "" {
			fault = "missing; it is required: " + p.kinds.list()
		}
		p.Fault("kind", "%s", fault)
		return
	}
	for _, s := range p.kinds.specs {
		section := sections.FieldByName(sectionField(s))
		switch {
		case s.Kind != own.Kind && p.Has(s.Section):
			p.Fault(s.Section, "does not belong to the kind %s; remove it or change the kind", in.Kind)
		case s.Kind == own.Kind && section.IsNil():
			p.Fault(s.Section, "missing; the kind %s requires it", in.Kind)
		case s.Kind == own.Kind:
			in.Settings = s.Parse.parse(p, section.Interface())
		}
	}
	in.Policy = p.policy(in, p.grantIDs(f.Grants), withAliases(in, f.Grants))
}

func (in *Integration) storeNames() []string {
	if in.Settings == nil {
		return nil
	}
	return in.Settings.StoreNames()
}

// withAliases adds to each grant the other names of the stores that it lists, after the
// names that are already there. It leaves stores that are not the integration's for the
// policy to reject.
func withAliases(in *Integration, grants []GrantSection) []GrantSection {
	settings, ok := in.Settings.(Aliaser)
	if !ok {
		return grants
	}
	grants = slices.Clone(grants)
	for i := range grants {
		also := slices.Clone(grants[i].Stores)
		for _, s := range grants[i].Stores {
			store, err := in.Kind.ParseStore(s)
			if err == nil && slices.Contains(in.storeNames(), store) {
				also = append(also, settings.Aliases(store)...)
			}
		}
		grants[i].Stores = also
	}
	return grants
}

// Has reports whether the document contains the setting.
func (p *Parser) Has(path string) bool { return p.doc.Has(path) }

// Fault reports a fault of the setting at path.
func (p *Parser) Fault(path, format string, args ...any) { p.doc.Fault(path, format, args...) }

// Abs resolves a relative path against the directory of the document. It returns the path
// unchanged if the document is in no directory.
func (p *Parser) Abs(path string) string {
	if path != "" && !filepath.IsAbs(path) && p.dir != "" {
		return filepath.Join(p.dir, path)
	}
	return path
}

// Restricted reports whether the document does not come from a file of the broker's
// machine. Such a document may refer only to what MayRead allows, and to no environment
// variable.
func (p *Parser) Restricted() bool { return p.mayRead != nil }

// MayRead reports whether the document may refer to a directory of this machine.
func (p *Parser) MayRead(dir string) bool { return p.mayRead == nil || p.mayRead(dir) }

// reads validates the section. The broker decides on settings that are missing.
func (p *Parser) reads(s ReadsSection) Reads {
	r := Reads{MaxConcurrent: s.MaxConcurrent, PerSecond: s.PerSecond, Timeout: time.Duration(s.Timeout)}
	if p.Has("reads.max_concurrent") && (r.MaxConcurrent < 1 || r.MaxConcurrent > 1024) {
		p.Fault("reads.max_concurrent", "expected 1 to 1024")
	}
	if r.PerSecond < 0 || r.PerSecond > 100_000 {
		p.Fault("reads.per_second", "expected 1 to 100000, or 0 for no limit")
	}
	if p.Has("reads.timeout") && (r.Timeout < time.Second || r.Timeout > 10*time.Second) {
		p.Fault("reads.timeout", "expected 1s to 10s")
	}
	return r
}

// ContainsControl reports whether s has a control character.
func ContainsControl(s string) bool {
	for _, r := range s {
		if unicode.IsControl(r) {
			return true
		}
	}
	return false
}

// policy compiles the grants, which have the given ids. If they are not valid it returns
// nil, which denies everything.
func (p *Parser) policy(in *Integration, ids []string, sections []GrantSection) *authz.Policy {
	grants := make([]authz.Grant, len(sections))
	for i, g := range sections {
		grants[i] = authz.Grant{ID: ids[i], Principals: g.Principals, Stores: g.Stores, Secrets: g.Secrets, Keys: g.Keys}
	}
	policy, err := authz.NewPolicy(in.Kind, in.storeNames(), grants)
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
			p.Fault("grants", "%v", err)
			continue
		}
		path := strictyaml.Index("grants", g.Grant) + "." + g.Field
		if g.Index >= 0 {
			path = strictyaml.Index(path, g.Index)
		}
		p.Fault(path, "%s", g.Text)
	}
	return nil
}

// Stored reports whether the credential whose file the setting at path would name is
// stored, and marks it as used. A file in the document takes precedence.
func (p *Parser) Stored(path string) bool {
	name, ok := strings.CutSuffix(path, "_file")
	if !ok || p.stored[name] == nil || p.Has(path) {
		return false
	}
	p.used[name] = true
	return true
}

// File records that the setting at path refers to a file, and returns its absolute path.
// Faults do not quote the name: it may be a credential entered by mistake.
func (p *Parser) File(path, name string, use FileUse) string {
	if name == "" {
		return ""
	}
	if !filepath.IsAbs(name) {
		if p.dir == "" {
			p.Fault(path, "expected an absolute path: this document has no directory")
			return name
		}
		name = filepath.Join(p.dir, name)
	}
	ref := NamedFile{Path: name, Use: use}
	p.refs = append(p.refs, ref)
	if fault := p.check(ref); fault != "" {
		p.Fault(path, "%s", fault)
	}
	return name
}
