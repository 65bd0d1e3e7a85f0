package strictyaml

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// Schema describes documents as a JSON Schema of draft 2020-12, for editors. Decode does not
// use it: it reports more, and in better words.
type Schema map[string]any

// The types of single values.
const (
	textRef     = "#/$defs/text"
	wholeRef    = "#/$defs/whole"
	durationRef = "#/$defs/duration"
	sizeRef     = "#/$defs/size"
)

// definitions define what the references above refer to. A text may look like a number or a
// truth value, because Decode takes it as it is written.
var definitions = Schema{
	"text":     Schema{"type": []string{"string", "number", "boolean"}, "minLength": 1},
	"whole":    Schema{"type": []string{"integer", "string"}, "pattern": `^[+-]?[0-9]+$`},
	"duration": Schema{"type": "string", "minLength": 2, "pattern": `^[-+]?([0-9]+d)?([0-9.]+(ns|us|µs|μs|ms|s|m|h))*$`},
	"size":     Schema{"type": []string{"integer", "string"}, "minimum": 0, "pattern": `^[0-9][0-9.,]* ?([kKmMgGtTpPeE][iI]?)?[bB]?$`},
}

// SchemaOf returns the structure of the documents that Decode decodes into a struct of type t:
// the names and the types of all settings. The caller may add constraints to it.
func SchemaOf(t reflect.Type) Schema {
	switch t {
	case reflect.TypeFor[Duration]():
		return Schema{"$ref": durationRef}
	case reflect.TypeFor[Bytes]():
		return Schema{"$ref": sizeRef}
	case treeType:
		return Schema{"type": []string{"object", "null"}}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return SchemaOf(t.Elem())
	case reflect.Struct:
		properties := make(Schema)
		for _, s := range settingsOf(t) {
			properties[s.name] = SchemaOf(t.Field(s.field).Type)
		}
		return Schema{"type": []string{"object", "null"}, "properties": properties, "additionalProperties": false}
	case reflect.Slice:
		return Schema{"type": []string{"array", "null"}, "items": SchemaOf(t.Elem())}
	case reflect.Map:
		return Schema{"type": []string{"object", "null"}, "additionalProperties": SchemaOf(t.Elem())}
	case reflect.String:
		return Schema{"$ref": textRef}
	case reflect.Bool:
		return Schema{"type": "boolean"}
	case reflect.Int:
		return Schema{"$ref": wholeRef}
	default:
		panic("strictyaml: fields of type " + t.String() + " are not supported")
	}
}

// At returns the schema of the setting at path, such as "cache.ttl" or "grants[].keys". It
// panics if there is no such setting.
func (s Schema) At(path string) Schema {
	for name := range strings.SplitSeq(path, ".") {
		name, elements := strings.CutSuffix(name, "[]")
		properties, _ := s["properties"].(Schema)
		next, ok := properties[name].(Schema)
		if ok && elements {
			next, ok = next["items"].(Schema)
		}
		if !ok {
			panic("strictyaml: there is no setting " + path)
		}
		s = next
	}
	return s
}

// Require adds settings that the section s must have. The section itself may be missing, but
// not empty.
func (s Schema) Require(names ...string) {
	s["type"], s["required"] = "object", names
}

// RequireOneOf is Require for exactly one of the settings.
func (s Schema) RequireOneOf(names ...string) {
	alternatives := make([]Schema, len(names))
	for i, name := range names {
		alternatives[i] = Schema{"required": []string{name}}
	}
	s["type"], s["oneOf"] = "object", alternatives
}

// Encode returns s as an indented document with a title. Equal schemas have equal documents.
func (s Schema) Encode(title string) ([]byte, error) {
	whole := Schema{"$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": definitions, "title": title}
	for name, value := range s {
		whole[name] = value
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(whole); err != nil {
		return nil, fmt.Errorf("strictyaml: encode schema: %w", err)
	}
	return b.Bytes(), nil
}
