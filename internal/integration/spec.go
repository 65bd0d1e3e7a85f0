package integration

import (
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// Spec is what a kind of store brings with it: its section of a document, who may
// change which of its settings, and the credentials that it takes. How its references
// look is package secret's, because clients need to know it as well.
type Spec struct {
	Kind secret.Kind
	// Section is the name of the section that has its settings.
	Section string
	// Cloud is where its stores are, "" if the kind does not determine it.
	Cloud string
	// Mutable are the settings, by their beginnings, that the owner of one integration
	// may change: they say what it reads and as whom, and nothing about the broker's
	// own machine. All others (addresses to connect to, files, the machine's identity)
	// are the operator's.
	Mutable []string
	// Immutable are settings that the operator decides and that leave the others to
	// the integration's owner: where the credential is sent, and what protects the
	// identity of one integration from the owner of another.
	Immutable []string
	// Credentials are the names of those that are read from the file which a document
	// names and are then kept by a registry.Store. Tokens, which are renewed in place,
	// are not among them.
	Credentials []string
	// Generated, if not "", is a setting, such as "role.external_id" of Section, for which
	// the broker generates a UUID if its section is there without it.
	Generated string
	// Choices are the values of the settings that choose how the integration
	// authenticates, by the names of these settings. What Mutable says of them is said of
	// each value.
	Choices map[string][]string
	// Parse validates the section; use ParseSection.
	Parse SectionParser
}

// Settings are the settings of one kind, validated.
type Settings interface {
	// StoreNames returns the stores that may be read, in canonical form.
	StoreNames() []string
	// List returns the settings as people are told of them.
	List() []Setting
	// Facts returns what a person needs to know to set the integration up at its stores.
	Facts() Facts
}

// Aliaser is implemented by Settings of which a store has more than one name.
type Aliaser interface {
	// Aliases returns all names of a store, itself among them.
	Aliases(store string) []string
}

// SectionParser decodes and validates the section of one kind.
type SectionParser struct {
	section reflect.Type
	parse   func(p *Parser, section any) Settings
}

// ParseSection makes a SectionParser of a function that validates the section, a
// struct with yaml tags, which is not nil. What it returns is used only if it reported
// no fault.
func ParseSection[S any](parse func(p *Parser, section *S) Settings) SectionParser {
	return SectionParser{reflect.TypeFor[*S](), func(p *Parser, section any) Settings { return parse(p, section.(*S)) }}
}

// Section returns the type of the struct that the section is decoded into.
func (s SectionParser) Section() reflect.Type { return s.section.Elem() }

// Kinds are the kinds of stores that documents may be of. They are immutable.
type Kinds struct {
	specs []Spec
	// typed and trees are structs with the settings of a document: of typed the
	// sections of kinds are decoded into their structs, of trees into Trees.
	typed, trees reflect.Type
}

// NewKinds makes Kinds.
func NewKinds(specs ...Spec) *Kinds {
	return &Kinds{
		specs: specs,
		typed: documentType(specs, func(s Spec) reflect.Type { return s.Parse.section }),
		trees: documentType(specs, func(Spec) reflect.Type { return treeType }),
	}
}

// Spec returns the Spec of a kind.
func (k *Kinds) Spec(kind secret.Kind) (Spec, bool) {
	if k == nil {
		return Spec{}, false
	}
	for _, s := range k.specs {
		if s.Kind == kind {
			return s, true
		}
	}
	return Spec{}, false
}

// All returns the Specs in order. The caller does not change the slice.
func (k *Kinds) All() []Spec { return k.specs }

// Section returns the name of the section of a kind, "" if there is no such kind.
func (k *Kinds) Section(kind secret.Kind) string {
	s, _ := k.Spec(kind)
	return s.Section
}

// list names the kinds.
func (k *Kinds) list() string {
	names := make([]string, len(k.specs))
	for i, s := range k.specs {
		names[i] = string(s.Kind)
	}
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
}

// IsMutable reports whether the owner of one integration may change a setting, written
// "azure.vaults", or "azure.credential.type=client_secret" with its value.
func (k *Kinds) IsMutable(kind secret.Kind, setting string) bool {
	of, _ := k.Spec(kind)
	for _, other := range k.specs {
		if setting == other.Section && of.Section != "" {
			return false // a section as a whole
		}
	}
	if !strings.HasPrefix(setting, of.Section+".") || of.Section == "" {
		return true // common to all kinds
	}
	return matches(of.Mutable, setting)
}

// IsImmutable reports whether a setting is one of Spec.Immutable.
func (k *Kinds) IsImmutable(kind secret.Kind, setting string) bool {
	of, _ := k.Spec(kind)
	return matches(of.Immutable, setting)
}

func matches(beginnings []string, setting string) bool {
	return slices.ContainsFunc(beginnings, func(b string) bool {
		rest, ok := strings.CutPrefix(setting, b)
		if !ok {
			return false
		}
		next, _ := utf8.DecodeRuneInString(rest)
		return rest == "" || next == '=' || next == '.' || next == '['
	})
}

// ChoiceNames returns the keys of m, sorted, for Spec.Choices.
func ChoiceNames[K ~string, V any](m map[K]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, string(name))
	}
	slices.Sort(names)
	return names
}
