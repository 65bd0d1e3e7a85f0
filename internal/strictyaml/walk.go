package strictyaml

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// decode stores the value of n, which is at path, in v. The type of v limits its recursion.
func (d *Document) decode(n *yaml.Node, path string, v reflect.Value) {
	switch {
	case n.Kind == yaml.AliasNode:
		d.spoil(path, "aliases are not allowed; write the value out")
		return
	case n.Style&yaml.TaggedStyle != 0:
		d.spoil(path, `tags ("!...") are not allowed; write the plain value`)
		return
	}
	if v.CanAddr() {
		if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
			if text, ok := d.scalar(n, path); ok {
				if err := u.UnmarshalText([]byte(text)); err != nil {
					d.spoil(path, "%v", err)
				}
			}
			return
		}
	}
	if v.Type() == treeType {
		v.Set(reflect.ValueOf(d.tree(n, path, 0)))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.decode(n, path, v.Elem())
	case reflect.Struct:
		d.section(n, path, v)
	case reflect.Slice:
		d.list(n, path, v)
	case reflect.Map:
		d.table(n, path, v)
	case reflect.String:
		if text, ok := d.scalar(n, path); ok {
			v.SetString(text)
		}
	case reflect.Bool:
		if text, ok := d.scalar(n, path); ok {
			if n.ShortTag() != "!!bool" {
				d.spoil(path, "expected true or false, without quotes")
				return
			}
			v.SetBool(strings.EqualFold(text, "true"))
		}
	case reflect.Int:
		if text, ok := d.scalar(n, path); ok {
			i, err := strconv.Atoi(text)
			if err != nil {
				d.spoil(path, "expected a whole number")
				return
			}
			v.SetInt(int64(i))
		}
	default:
		panic("strictyaml: fields of type " + v.Type().String() + " are not supported")
	}
}

// setting is a field of a struct that has a yaml tag.
type setting struct {
	name  string
	field int
}

// settingsOf returns the settings of a struct, in their order.
func settingsOf(t reflect.Type) []setting {
	settings := make([]setting, 0, t.NumField())
	for i := range t.NumField() {
		if name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ","); name != "" && name != "-" {
			settings = append(settings, setting{name, i})
		}
	}
	return settings
}

// section decodes a mapping into a struct.
func (d *Document) section(n *yaml.Node, path string, v reflect.Value) {
	fields := make(map[string]reflect.Value, v.NumField())
	names := make([]string, 0, v.NumField())
	for _, s := range settingsOf(v.Type()) {
		fields[s.name] = v.Field(s.field)
		names = append(names, s.name)
	}
	d.entries(n, path, "a section of settings (name: value)", func(key, value *yaml.Node) {
		field, known := fields[key.Value]
		if !known {
			if now := d.renamed[join(path, key.Value)]; now != "" {
				d.add(key.Line, path, fmt.Sprintf("unknown setting %q; it is now %s", key.Value, now))
				return
			}
			if isNull(value) {
				// Perhaps it is not a name: {password: a,b} contains a "b" without a value.
				d.add(key.Line, path, unknownText("unknown setting without a value", key.Value, names))
				return
			}
			d.add(key.Line, path, unknownText("unknown setting "+quote(key.Value), key.Value, names))
			return
		}
		p := join(path, key.Value)
		d.lines[p] = key.Line
		d.decode(value, p, field)
	})
}

// table decodes a mapping whose names are chosen by the author of the file.
func (d *Document) table(n *yaml.Node, path string, v reflect.Value) {
	m := reflect.MakeMap(v.Type())
	v.Set(m)
	d.entries(n, path, "a table (name: value)", func(key, value *yaml.Node) {
		if isNull(value) { // the key may be a part of a value, so do not quote it
			d.add(key.Line, path, "an entry has no value; add a value or remove the entry")
			return
		}
		p := Key(path, key.Value)
		d.lines[p] = key.Line
		element := reflect.New(v.Type().Elem()).Elem()
		d.decode(value, p, element)
		m.SetMapIndex(reflect.ValueOf(key.Value), element)
	})
}

// entries calls do for the first entry of each name in a mapping.
func (d *Document) entries(n *yaml.Node, path, want string, do func(key, value *yaml.Node)) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.spoil(path, "expected %s, found %s", want, sortOf(n))
		return
	}
	seen := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode || key.Style&yaml.TaggedStyle != 0 {
			d.add(key.Line, path, `expected a name before the ":"`)
			continue
		}
		if first, ok := seen[key.Value]; ok {
			what := quote(key.Value)
			if isNull(n.Content[i+1]) {
				what = "a name without a value"
			}
			d.add(key.Line, path, fmt.Sprintf("%s is set twice, first on line %d", what, first))
			continue
		}
		seen[key.Value] = key.Line
		do(key, n.Content[i+1])
	}
}

func (d *Document) list(n *yaml.Node, path string, v reflect.Value) {
	// Never nil: an empty list differs from a missing one.
	v.Set(reflect.MakeSlice(v.Type(), 0, len(n.Content)))
	if isNull(n) {
		return
	}
	if n.Kind != yaml.SequenceNode {
		d.spoil(path, "expected a list, found %s", sortOf(n))
		return
	}
	v.SetLen(len(n.Content))
	for i, element := range n.Content {
		p := Index(path, i)
		d.lines[p] = element.Line
		d.decode(element, p, v.Index(i))
	}
}

// scalar returns the text of a single value as written, so that 010 and 1e3 stay unchanged.
func (d *Document) scalar(n *yaml.Node, path string) (text string, ok bool) {
	switch {
	case n.Kind != yaml.ScalarNode:
		d.spoil(path, "expected a single value, found %s", sortOf(n))
	case isNull(n) || n.Value == "":
		d.spoil(path, "there is no value; add a value or remove the setting")
	default:
		return n.Value, true
	}
	return "", false
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

func sortOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a section"
	case yaml.SequenceNode:
		return "a list"
	default:
		return "a single value"
	}
}
