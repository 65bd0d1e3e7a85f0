package integration

import (
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// Spec is what a kind of store adds to integrations: its section of a document, who may
// change which of its settings, and its credentials. Package secret has the format of its
// references, because clients need it as well.
type Spec struct {
	Kind secret.Kind
	// Section is the name of the section with its settings.
	Section string
	// Cloud is the cloud of its stores, or "" if the kind does not determine it.
	Cloud string
	// Mutable are prefixes of the settings that the owner of an integration may change.
	// They determine what it reads and as which identity, and nothing about the broker's
	// machine. All other settings (addresses to connect to, files, the machine's identity)
	// are the operator's.
	Mutable []string
	// Immutable are settings that only the operator may set, and that leave the others to
	// the integration's owner: where the credential is sent, and what protects the
	// identity of one integration from the owner of another.
	Immutable []string
	// Credentials are the names of the credentials that are read from a file that a
	// document refers to, and that a registry.Store then stores. They do not include
	// tokens that are renewed in place.
	Credentials []string
	// Generated, if not "", is a setting such as "role.external_id" of Section. The broker
	// generates a UUID for it if the setting's section exists without it.
	Generated string
	// Choices are the values of the settings that select how the integration
	// authenticates, keyed by setting. Mutable lists each permitted value separately.
	Choices map[string][]string
	// Parse validates the section; use ParseSection.
	Parse SectionParser
	// Versions says what the versions of a secret are; nil means secret.StoreVersions.
	Versions func(in *Integration, ref secret.Ref) secret.Versions
	// WatchInterval, if not 0, is how often a watched secret is read again, instead of once
	// per time-to-live of the cache.
	WatchInterval time.Duration
}

// Settings are the settings of one kind, validated.
type Settings interface {
	// StoreNames returns the stores that may be read, in canonical form.
	StoreNames() []string
	// List returns the settings for display.
	List() []Setting
	// Facts returns what a person needs to know to set the integration up at its stores.
	Facts() Facts
}

// Aliaser is implemented by Settings whose stores have more than one name.
type Aliaser interface {
	// Aliases returns all names of a store, including the given one.
	Aliases(store string) []string
	// Canonical returns the one of them by which the secrets of the store are cached. It
	// does not allocate.
	Canonical(store string) string
}

// PollSettings is implemented by Settings with which a store can be asked which version of a
// secret is current.
type PollSettings interface {
	// PollInterval returns how often to ask while the secret is watched; 0 for never.
	PollInterval(ref secret.Ref) time.Duration
}

// EventSettings is implemented by Settings that can configure a source of events.
type EventSettings interface {
	// EventSource returns a name for the source of events for people, such as the URL of a
	// queue, or "" if none is configured.
	EventSource() string
}

// EventSource returns a name for the source of events of an integration for people, or "" if
// the integration has none.
func (in *Integration) EventSource() string {
	if s, ok := in.Settings.(EventSettings); ok {
		return s.EventSource()
	}
	return ""
}

// SectionParser decodes and validates the section of one kind.
type SectionParser struct {
	section reflect.Type
	parse   func(p *Parser, section any) Settings
}

// ParseSection returns a SectionParser that decodes the section into a struct with yaml
// tags and calls parse to validate it. The struct is never nil. The result is used only if
// parse reported no fault.
func ParseSection[S any](parse func(p *Parser, section *S) Settings) SectionParser {
	return SectionParser{reflect.TypeFor[*S](), func(p *Parser, section any) Settings { return parse(p, section.(*S)) }}
}

// Section returns the type of the struct that the section is decoded into.
func (s SectionParser) Section() reflect.Type { return s.section.Elem() }

// Kinds are the supported kinds of stores. They are immutable.
type Kinds struct {
	specs []Spec
	// typed and trees are struct types with the settings of a document. typed decodes the
	// sections of kinds into their structs, trees into Trees.
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

// Versions returns what the versions of a secret are, and how often it is read again while
// it is watched; 0 for once per time-to-live of the cache.
func (k *Kinds) Versions(in *Integration, ref secret.Ref) (secret.Versions, time.Duration) {
	s, ok := k.Spec(in.Kind)
	if !ok || s.Versions == nil {
		return secret.StoreVersions, s.WatchInterval
	}
	return s.Versions(in, ref), s.WatchInterval
}

// All returns the Specs in order. The caller must not change the slice.
func (k *Kinds) All() []Spec { return k.specs }

// Section returns the name of the section of a kind, or "" if the kind is unknown.
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
	return orList(names)
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
