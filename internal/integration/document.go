package integration

import (
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// Document is an integration as written, section by section, before its settings are
// validated. A section or setting with the zero value is absent.
type Document struct {
	// APIVersion is APIVersion or "", which means the same. Encode always writes it.
	APIVersion  string         `yaml:"api_version,omitempty"`
	ID          string         `yaml:"id"`
	DisplayName string         `yaml:"display_name,omitempty"`
	Kind        secret.Kind    `yaml:"kind"`
	Cache       CacheSection   `yaml:"cache,omitempty"`
	Reads       ReadsSection   `yaml:"reads,omitempty"`
	Placement   Placement      `yaml:"placement,omitempty"`
	Grants      []GrantSection `yaml:"grants,omitempty"`
	Roles       RolesSection   `yaml:"roles,omitempty"`
	// section contains the settings of Kind.
	section strictyaml.Tree
	kinds   *Kinds // nil until Bind if the caller made the Document
}

// APIVersion is the version of the format of documents. A document that states it can be
// recognized if a later release has another format.
const APIVersion = "secretbroker/v1"

// CacheSection is the section "cache".
type CacheSection struct {
	TTL      strictyaml.Duration `yaml:"ttl,omitempty"`
	MaxStale strictyaml.Duration `yaml:"max_stale,omitempty"`
}

// ReadsSection is the section "reads".
type ReadsSection struct {
	MaxConcurrent int                 `yaml:"max_concurrent,omitempty"`
	PerSecond     int                 `yaml:"per_second,omitempty"`
	Timeout       strictyaml.Duration `yaml:"timeout,omitempty"`
}

// GrantSection is one entry of "grants".
type GrantSection struct {
	// ID is the name of the grant, "" if it has only the derived id; see GrantID.
	ID         string   `yaml:"id,omitempty"`
	Principals []string `yaml:"principals"`
	Stores     []string `yaml:"stores,omitempty"`
	Secrets    []string `yaml:"secrets,omitempty"`
	Keys       []string `yaml:"keys,omitempty"`
}

// RolesSection is the section "roles".
type RolesSection struct {
	ResourceOwner []string `yaml:"resource_owner,omitempty"`
	Assigner      []string `yaml:"assigner,omitempty"`
	Auditor       []string `yaml:"auditor,omitempty"`
	Rotator       []string `yaml:"rotator,omitempty"`
}

// DecodedDocument is a Document with its faults and the lines of its settings.
type DecodedDocument struct {
	Document
	// Faults are the faults of the document's form: its syntax, unknown keys and wrong
	// types. The values of settings are not validated.
	Faults strictyaml.Faults
	doc    *strictyaml.Document
}

// DecodeDocument decodes a document. Unlike ParseDocument, it does not validate the
// settings. name is the name of the document in Faults.
func (k *Kinds) DecodeDocument(name string, data []byte) DecodedDocument {
	f := DecodedDocument{Document: Document{kinds: k}}
	doc, v := decode(k.trees, name, data, &f.Document)
	f.doc = doc
	for _, required := range []string{"id", "kind"} {
		if !f.doc.Has(required) {
			f.doc.Fault(required, "missing; it is required")
		}
	}
	if f.Kind != "" && k.Section(f.Kind) == "" {
		f.doc.Fault("kind", "there is no such kind")
	}
	for _, s := range k.specs {
		tree, _ := v.FieldByName(sectionField(s)).Interface().(strictyaml.Tree)
		switch {
		case s.Kind == f.Kind:
			f.section = tree
		case tree != nil:
			f.doc.Fault(s.Section, "does not belong to the kind; remove it or change the kind")
		}
	}
	for i, g := range f.Grants {
		// A missing list means no restriction, an empty one the opposite.
		for name, list := range map[string][]string{"stores": g.Stores, "secrets": g.Secrets, "keys": g.Keys} {
			if list != nil && len(list) == 0 {
				f.doc.Fault(strictyaml.Index("grants", i)+"."+name, "an empty list would allow nothing; list what is allowed, or remove the setting to allow everything")
			}
		}
	}
	f.Faults = f.doc.Faults()
	return f
}

// Line returns the line of a setting or, if it is absent, of its section.
func (f *DecodedDocument) Line(path string) int { return f.doc.Line(path) }

// Section returns the name of the section with the settings of the kind, or "" for an
// unknown kind.
func (f *Document) Section() string { return f.kinds.Section(f.Kind) }

// Settings returns the settings of the kind as plain maps, lists, strings, bools and ints.
// The caller may modify them.
func (f *Document) Settings() map[string]any { return plainMap(f.section) }

// SetSettings replaces the settings of the kind. Whole numbers may be of type float64, as
// encoding/json decodes them. It returns an error for a value that no setting can have.
func (f *Document) SetSettings(settings map[string]any) error {
	if len(settings) == 0 {
		f.section = nil
		return nil
	}
	t, err := treeOf("settings", settings, 0)
	if err != nil {
		return err
	}
	f.section = t
	return nil
}

// common is the type of a document without the sections of the kinds.
var common = documentType(nil, nil)

// Bind sets the supported kinds. A Document with settings that DecodeDocument has not made
// must be bound before Encode, Tree, CredentialFiles, Generated and SetGenerated are
// called. Bind returns false if the settings are of an unknown kind; the document must not
// be used then.
func (f *Document) Bind(kinds *Kinds) bool {
	f.kinds = kinds
	_, known := kinds.Spec(f.Kind)
	return known || f.section == nil
}

// Generated returns the setting that the broker generates if it is missing. wanted is
// false if the document has no section for it.
func (f *Document) Generated() (value any, wanted bool) {
	section, name := f.generated(f.Settings())
	value, there := section[name]
	return value, section != nil && !there
}

// SetGenerated sets the setting that Generated returns.
func (f *Document) SetGenerated(value any) error {
	settings := f.Settings()
	section, name := f.generated(settings)
	section[name] = value
	return f.SetSettings(settings)
}

// generated returns the section to which the generated setting belongs, or nil if the
// document does not have it, and the name of the setting.
func (f *Document) generated(settings map[string]any) (section map[string]any, name string) {
	spec, _ := f.kinds.Spec(f.Kind)
	parent, name, _ := strings.Cut(spec.Generated, ".")
	section, _ = settings[parent].(map[string]any)
	return section, name
}

// Encode returns the document as YAML, in the format of the files. It returns an error for
// settings of an unknown kind.
func (f *Document) Encode() ([]byte, error) {
	trees := common
	if f.kinds != nil {
		trees = f.kinds.trees
	}
	v := reflect.New(trees).Elem()
	copyFields(v, reflect.ValueOf(f).Elem())
	v.FieldByName("APIVersion").SetString(APIVersion)
	if spec, ok := f.kinds.Spec(f.Kind); ok {
		v.FieldByName(sectionField(spec)).Set(reflect.ValueOf(f.section))
	} else if f.section != nil {
		return nil, fmt.Errorf("there is no kind %q", f.Kind)
	}
	data, err := strictyaml.Encode(v.Interface())
	if err != nil {
		return nil, fmt.Errorf("integration: %w", err)
	}
	return data, nil
}

// Tree returns the whole document as plain maps, lists, strings, bools and ints, without
// api_version.
func (f *Document) Tree() map[string]any {
	data, err := f.Encode()
	if err != nil {
		panic(err) // Bind was not called, or its result was ignored
	}
	var t strictyaml.Tree
	strictyaml.Decode("", data, &t)
	delete(t, "api_version")
	return plainMap(t)
}

// CredentialFiles returns the paths of the credential files in the settings, keyed by the
// name under which a Store keeps the credential, and removes these settings from the
// document. Relative paths are resolved against dir.
func (f *Document) CredentialFiles(dir string) map[string]string {
	files := make(map[string]string)
	spec, _ := f.kinds.Spec(f.Kind)
	takeCredentialFiles(spec.Section, f.section, spec.Credentials, func(name, path string) {
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		files[name] = path
	})
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
		return nil, fmt.Errorf("%s: there is no value; add a value or remove the setting", path)
	}
}

// SetTTL sets the time-to-live; zero removes it.
func (c *CacheSection) SetTTL(d time.Duration) { c.TTL = strictyaml.Duration(d) }

// SetMaxStale sets max_stale; zero removes it.
func (c *CacheSection) SetMaxStale(d time.Duration) { c.MaxStale = strictyaml.Duration(d) }

// SetTimeout sets the timeout; zero removes it.
func (s *ReadsSection) SetTimeout(d time.Duration) { s.Timeout = strictyaml.Duration(d) }

// EncodeYAML encodes plain maps, lists and scalars as YAML.
func EncodeYAML(v map[string]any) ([]byte, error) { return strictyaml.Encode(v) }
