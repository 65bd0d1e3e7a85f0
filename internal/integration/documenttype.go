package integration

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

var treeType = reflect.TypeFor[strictyaml.Tree]()

// documentType returns the struct type of a document: the fields of Document, with the
// sections of the kinds after the kind.
func documentType(specs []Spec, section func(Spec) reflect.Type) reflect.Type {
	var fields []reflect.StructField
	for f := range reflect.TypeFor[Document]().Fields() {
		if f.Tag.Get("yaml") != "" {
			fields = append(fields, reflect.StructField{Name: f.Name, Type: f.Type, Tag: f.Tag})
		}
		if f.Name == "Kind" {
			for _, s := range specs {
				fields = append(fields, reflect.StructField{
					Name: sectionField(s), Type: section(s), Tag: reflect.StructTag(fmt.Sprintf(`yaml:"%s,omitempty"`, s.Section)),
				})
			}
		}
	}
	return reflect.StructOf(fields)
}

func sectionField(s Spec) string { return "Section" + strings.ToUpper(s.Section) }

// renamed are the former names of settings.
var renamed = map[string]string{
	"limits": "reads, with max_concurrent, per_second and timeout",
}

// decode decodes a document into a new struct of type as, which it returns, and copies the
// fields common to all kinds to into.
func decode(as reflect.Type, name string, data []byte, into *Document) (*strictyaml.Document, reflect.Value) {
	v := reflect.New(as)
	doc := strictyaml.DecodeRenamed(name, data, v.Interface(), renamed)
	copyFields(reflect.ValueOf(into).Elem(), v.Elem())
	if doc.Has("api_version") && into.APIVersion != APIVersion {
		doc.Fault("api_version", "expected %s, the only version that this release knows; a document of another version needs the release that has it", APIVersion)
	}
	return doc, v.Elem()
}

// copyFields copies the exported fields that both structs have.
func copyFields(to, from reflect.Value) {
	for f := range to.Type().Fields() {
		if f.Tag.Get("yaml") == "" {
			continue
		}
		if source := from.FieldByName(f.Name); source.IsValid() {
			to.FieldByIndex(f.Index).Set(source)
		}
	}
}
