package integration

import (
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// Form is an integration as it is written down, section by section, before
// anybody has looked at what the settings say. A section or setting that is zero
// is one that is not there.
type Form struct {
	ID          string          `yaml:"id"`
	DisplayName string          `yaml:"display_name,omitempty"`
	Kind        secret.Kind     `yaml:"kind"`
	Azure       strictyaml.Tree `yaml:"azure,omitempty"`
	AWS         strictyaml.Tree `yaml:"aws,omitempty"`
	GCP         strictyaml.Tree `yaml:"gcp,omitempty"`
	Vault       strictyaml.Tree `yaml:"vault,omitempty"`
	Local       strictyaml.Tree `yaml:"local,omitempty"`
	Cache       FormCache       `yaml:"cache,omitempty"`
	Limits      FormLimits      `yaml:"limits,omitempty"`
	Placement   Placement       `yaml:"placement,omitempty"`
	Grants      []FormGrant     `yaml:"grants,omitempty"`
	Roles       FormRoles       `yaml:"roles,omitempty"`
}

// FormCache is the section cache.
type FormCache struct {
	TTL      strictyaml.Duration `yaml:"ttl,omitempty"`
	MaxStale strictyaml.Duration `yaml:"max_stale,omitempty"`
}

// FormLimits is the section limits.
type FormLimits struct {
	MaxConcurrentReads int                 `yaml:"max_concurrent_reads,omitempty"`
	ReadsPerSecond     int                 `yaml:"reads_per_second,omitempty"`
	Timeout            strictyaml.Duration `yaml:"timeout,omitempty"`
}

// FormGrant is one entry of grants.
type FormGrant struct {
	Principals []string `yaml:"principals"`
	Vaults     []string `yaml:"vaults,omitempty"`
	// Stores is Vaults for kinds whose stores are called something else.
	Stores  []string `yaml:"stores,omitempty"`
	Secrets []string `yaml:"secrets,omitempty"`
	Keys    []string `yaml:"keys,omitempty"`
}

// Equal reports whether two grants say the same, in whatever order.
func (g FormGrant) Equal(other FormGrant) bool {
	same := func(a, b []string) bool {
		return len(a) == len(b) && slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
	}
	return same(g.Principals, other.Principals) && same(g.Vaults, other.Vaults) && same(g.Stores, other.Stores) && same(g.Secrets, other.Secrets) && same(g.Keys, other.Keys)
}

// FormRoles is the section roles.
type FormRoles = rolesSection

// Bindings returns the section by role.
func (s rolesSection) Bindings() map[authz.Role][]string { return s.bindings() }

// FormFile is a Form and where its parts stand.
type FormFile struct {
	Form
	// Faults are what is wrong with how it is written. What the settings say has
	// not been looked at.
	Faults strictyaml.Faults
	doc    *strictyaml.Document
}

// ParseForm reads a document. name is what faults call it.
func ParseForm(name string, data []byte) FormFile {
	f := FormFile{}
	f.doc = strictyaml.Decode(name, data, &f.Form)
	for _, required := range []string{"id", "kind"} {
		if !f.doc.Has(required) {
			f.doc.Fault(required, "missing; it is required")
		}
	}
	if f.Kind != "" && SectionOf(f.Kind) == "" {
		f.doc.Fault("kind", "there is no such kind")
	}
	for kind, tree := range f.sections() {
		if *tree != nil && kind != f.Kind {
			f.doc.Fault(SectionOf(kind), "does not belong to the kind; take it out or change the kind")
		}
	}
	for i, g := range f.Grants {
		// Left out it would leave open what an empty list wants closed.
		for name, list := range map[string][]string{"vaults": g.Vaults, "stores": g.Stores, "secrets": g.Secrets, "keys": g.Keys} {
			if list != nil && len(list) == 0 {
				f.doc.Fault(strictyaml.Index("grants", i)+"."+name, "an empty list would allow nothing; list what is allowed, or take the setting out to leave it open")
			}
		}
	}
	f.Faults = f.doc.Faults()
	return f
}

// Line returns the line of a setting, or of the section that it would stand in.
func (f *FormFile) Line(path string) int { return f.doc.Line(path) }

func (f *Form) sections() map[secret.Kind]*strictyaml.Tree {
	bySection := map[string]*strictyaml.Tree{"azure": &f.Azure, "aws": &f.AWS, "gcp": &f.GCP, "vault": &f.Vault, "local": &f.Local}
	sections := make(map[secret.Kind]*strictyaml.Tree, len(kindSections))
	for _, k := range kindSections {
		sections[k.kind] = bySection[k.section]
	}
	return sections
}

// Settings returns the settings of the kind as plain maps, lists, strings, bools
// and ints. The caller may change them.
func (f *Form) Settings() map[string]any {
	if tree := f.sections()[f.Kind]; tree != nil {
		return plainMap(*tree)
	}
	return nil
}

// SetSettings replaces the settings of the kind, which must be set. Whole numbers
// may come as float64, as JSON has them. It fails for what no setting can be.
func (f *Form) SetSettings(settings map[string]any) error {
	tree := f.sections()[f.Kind]
	if tree == nil {
		return fmt.Errorf("there is no such kind")
	}
	if len(settings) == 0 {
		*tree = nil
		return nil
	}
	t, err := treeOf(SectionOf(f.Kind), settings, 0)
	if err != nil {
		return err
	}
	*tree = t
	return nil
}

// Document writes the form in the way that files have it.
func (f *Form) Document() ([]byte, error) {
	data, err := strictyaml.Encode(f)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	return data, nil
}

// Tree returns the whole form as plain maps, lists, strings, bools and ints.
func (f *Form) Tree() map[string]any {
	data, err := f.Document()
	if err != nil {
		return nil // a form holds nothing that cannot be written
	}
	var t strictyaml.Tree
	strictyaml.Decode("", data, &t)
	return plainMap(t)
}

// CredentialFiles returns the files that the settings name for credentials, by
// the name under which a Store keeps the credential, and takes these settings out
// of the form. Relative paths are taken from dir.
func (f *Form) CredentialFiles(dir string) map[string]string {
	files := make(map[string]string)
	if tree := f.sections()[f.Kind]; tree != nil {
		kind, _ := sectionOf(f.Kind)
		takeCredentialFiles(kind.section, *tree, kind.credentials, func(name, path string) {
			if !filepath.IsAbs(path) {
				path = filepath.Join(dir, path)
			}
			files[name] = path
		})
	}
	return files
}

func takeCredentialFiles(path string, t strictyaml.Tree, names []string, found func(name, file string)) {
	for _, key := range slices.Sorted(maps.Keys(t)) {
		switch v := t[key].(type) {
		case strictyaml.Tree:
			takeCredentialFiles(path+"."+key, v, names, found)
		case string:
			if name, ok := strings.CutSuffix(path+"."+key, "_file"); ok && slices.Contains(names, name) {
				found(name, v)
				delete(t, key)
			}
		}
	}
}

func plainMap(t strictyaml.Tree) map[string]any {
	if t == nil {
		return nil
	}
	m := make(map[string]any, len(t))
	for k, v := range t {
		m[k] = plainValue(v)
	}
	return m
}

func plainValue(v any) any {
	switch v := v.(type) {
	case strictyaml.Tree:
		return plainMap(v)
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = plainValue(v[i])
		}
		return list
	default:
		return v
	}
}

const maxSettingsDepth = 16

func treeOf(path string, m map[string]any, depth int) (strictyaml.Tree, error) {
	t := make(strictyaml.Tree, len(m))
	for k, v := range m {
		value, err := treeValue(path+"."+k, v, depth)
		if err != nil {
			return nil, err
		}
		t[k] = value
	}
	return t, nil
}

func treeValue(path string, v any, depth int) (any, error) {
	if depth == maxSettingsDepth {
		return nil, fmt.Errorf("%s: nested too deeply", path)
	}
	switch v := v.(type) {
	case string, bool, int:
		return v, nil
	case float64:
		if v != math.Trunc(v) || math.Abs(v) > 1<<53 {
			return nil, fmt.Errorf("%s: expected a whole number", path)
		}
		return int(v), nil
	case map[string]any:
		return treeOf(path, v, depth+1)
	case []any:
		list := make([]any, len(v))
		for i := range v {
			value, err := treeValue(strictyaml.Index(path, i), v[i], depth+1)
			if err != nil {
				return nil, err
			}
			list[i] = value
		}
		return list, nil
	default:
		return nil, fmt.Errorf("%s: there is no value; write one or take the setting out", path)
	}
}

// SetTTL sets the time-to-live; zero leaves it out.
func (c *FormCache) SetTTL(d time.Duration) { c.TTL = strictyaml.Duration(d) }

// SetMaxStale sets max_stale; zero leaves it out.
func (c *FormCache) SetMaxStale(d time.Duration) { c.MaxStale = strictyaml.Duration(d) }

// SetTimeout sets the timeout; zero leaves it out.
func (l *FormLimits) SetTimeout(d time.Duration) { l.Timeout = strictyaml.Duration(d) }

// EncodeYAML writes plain maps, lists and single values as YAML.
func EncodeYAML(v map[string]any) ([]byte, error) { return strictyaml.Encode(v) }
