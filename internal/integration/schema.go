package integration

import (
	"strings"

	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// Schema returns a JSON Schema of documents, for editors. It describes the names and types of
// all settings, which sections belong to which kind, and the values of the settings with a
// list of values. ParseFile checks more.
func (k *Kinds) Schema() ([]byte, error) {
	s := strictyaml.SchemaOf(k.typed)
	s.Require("id", "kind")
	s.At("api_version")["const"] = APIVersion
	id := s.At("id") // as ValidID
	id["maxLength"], id["pattern"] = maxIDLen, `^[a-z0-9_-]+(\.[a-z0-9_-]+)*$`
	id["allOf"] = []strictyaml.Schema{{"pattern": "^[a-z0-9](.*[a-z0-9])?$"}}
	s.At("grants[].id")["pattern"] = validGrantID.String()
	s.At("placement.cloud")["pattern"] = placementName.String()
	s.At("placement.region")["pattern"] = placementName.String()
	s.At("grants[]").Require("principals")
	for _, list := range []string{"principals", "stores", "secrets", "keys"} {
		of := s.At("grants[]." + list)
		of["type"], of["minItems"] = "array", 1
	}
	var names []string
	var sections []strictyaml.Schema
	for _, spec := range k.specs {
		names = append(names, string(spec.Kind))
		s.At(spec.Section)["type"] = "object"
		for setting, values := range spec.Choices {
			s.At(setting)["enum"] = values
		}
		others := make(strictyaml.Schema)
		for _, other := range k.specs {
			if other.Section != spec.Section {
				others[other.Section] = false
			}
		}
		sections = append(sections, strictyaml.Schema{
			"if":   strictyaml.Schema{"properties": strictyaml.Schema{"kind": strictyaml.Schema{"const": spec.Kind}}, "required": []string{"kind"}},
			"then": strictyaml.Schema{"required": []string{spec.Section}, "properties": others},
		})
	}
	s.At("kind")["enum"] = names
	s["allOf"] = sections
	return s.Encode("An integration of secretbroker: " + strings.Join(names, ", "))
}
