package integration

import (
	"slices"
	"strings"

	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// Stores validates the setting at path, a list of stores of a kind. It returns the valid
// stores in canonical form, each with its index in the list, in the order of the list.
// missing is the fault of an empty list.
func (p *Parser) Stores(path string, list []string, kind secret.Kind, missing string) []ListedStore {
	if len(list) == 0 {
		p.Fault(path, "%s", missing)
	}
	stores := make([]ListedStore, 0, len(list))
	for i, s := range list {
		name, err := kind.ParseStore(s)
		if err != nil {
			p.Fault(strictyaml.Index(path, i), "%s", secret.AsError(err).Message)
			continue
		}
		same := slices.IndexFunc(stores, func(other ListedStore) bool { return other.Name == name })
		if same >= 0 {
			p.Fault(strictyaml.Index(path, i), "the same store as %s", strictyaml.Index(path, stores[same].Index))
			continue
		}
		stores = append(stores, ListedStore{name, i})
	}
	return stores
}

// ListedStore is a store in a list of a document.
type ListedStore struct {
	Name  string // in canonical form
	Index int
}

// StoreNames returns the names of stores.
func StoreNames(stores []ListedStore) []string {
	names := make([]string, len(stores))
	for i, s := range stores {
		names[i] = s.Name
	}
	return names
}

// CredentialRules are the settings of each type of credential: true for a setting that the
// type requires, false for one that it permits.
type CredentialRules[T ~string] map[T]map[string]bool

// CredentialSetting is one setting of a section that configures a credential.
type CredentialSetting struct {
	// Name is its name in the section, such as "key_file".
	Name, Value string
	// To receives the text, or the absolute path of the file.
	To *string
	// Check returns what is wrong with a text. It is nil for the path of a file.
	Check func(text string) (fault string)
	// Use is the use of the file.
	Use FileUse
	// Storable is whether the content of the file may be stored with the integration
	// instead.
	Storable bool
}

// ParseCredential validates the section at path, such as "azure.credential", whose
// setting "type" is chosen. Settings that do not belong to this type are faults. It
// reports whether the type is known.
func ParseCredential[T ~string](p *Parser, path string, chosen T, rules CredentialRules[T], settings ...CredentialSetting) (known bool) {
	rule, known := rules[chosen]
	if !known {
		fault := "expected "
		if !p.Has(path + ".type") {
			fault = "missing; it is required: "
		}
		p.Fault(path+".type", "%s%s", fault, orList(ChoiceNames(rules)))
		return false
	}
	section := path[strings.LastIndexByte(path, '.')+1:]
	for _, s := range settings {
		at := path + "." + s.Name
		required, belongs := rule[s.Name]
		switch {
		case !belongs && p.Has(at):
			p.Fault(at, "does not belong to the %s type %s; remove it or change the type", section, chosen)
		case !belongs || s.Storable && p.Stored(at):
		case required && !p.Has(at):
			p.Fault(at, "missing; the %s type %s requires it", section, chosen)
		case !p.Has(at):
		case s.Check == nil:
			*s.To = p.File(at, s.Value, s.Use)
		default:
			if fault := s.Check(s.Value); fault != "" {
				p.Fault(at, "%s", fault)
			}
			*s.To = s.Value
		}
	}
	return true
}

// orList joins names to "a, b or c".
func orList(names []string) string {
	last := len(names) - 1
	if last < 1 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:last], ", ") + " or " + names[last]
}
