package strictyaml

import (
	"bytes"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Tree is a section whose settings another package defines: it accepts any settings. Its
// values are strings, bools, ints, Trees and []any of these. A number that an int does not
// represent exactly as written (010, 1e3, larger than 2^53) stays a string.
type Tree map[string]any

var treeType = reflect.TypeFor[Tree]()

// settingName distinguishes settings from the names of a table's entries.
var settingName = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// maxTreeDepth limits the depth of a Tree.
const maxTreeDepth = 16

// maxExactInt is the largest number that all JSON parsers represent exactly.
const maxExactInt = 1 << 53

// tree decodes a mapping into a Tree.
func (d *Document) tree(n *yaml.Node, path string, depth int) Tree {
	t := make(Tree)
	d.entries(n, path, "a section of settings (name: value)", func(key, value *yaml.Node) {
		p := join(path, key.Value)
		if !settingName.MatchString(key.Value) {
			p = Key(path, key.Value)
		}
		if isNull(value) {
			d.add(key.Line, path, "a setting has no value; add a value or remove the setting")
			return
		}
		d.lines[p] = key.Line
		if v := d.treeValue(value, p, depth); v != nil {
			t[key.Value] = v
		}
	})
	return t
}

// treeValue records a problem and returns nil for values that a Tree cannot have.
func (d *Document) treeValue(n *yaml.Node, path string, depth int) any {
	switch {
	case n.Kind == yaml.AliasNode:
		d.spoil(path, "aliases are not allowed; write the value out")
		return nil
	case n.Style&yaml.TaggedStyle != 0:
		d.spoil(path, `tags ("!...") are not allowed; write the plain value`)
		return nil
	case depth == maxTreeDepth:
		d.spoil(path, "nested too deeply")
		return nil
	}
	switch n.Kind {
	case yaml.MappingNode:
		return d.tree(n, path, depth+1)
	case yaml.SequenceNode:
		list := make([]any, 0, len(n.Content))
		for i, element := range n.Content {
			p := Index(path, i)
			d.lines[p] = element.Line
			if v := d.treeValue(element, p, depth+1); v != nil {
				list = append(list, v)
			}
		}
		return list
	}
	text, ok := d.scalar(n, path)
	if !ok {
		return nil
	}
	switch n.ShortTag() {
	case "!!bool":
		return strings.EqualFold(text, "true")
	case "!!int":
		if i, err := strconv.Atoi(text); err == nil && strconv.Itoa(i) == text && -maxExactInt <= i && i <= maxExactInt {
			return i
		}
	}
	return text
}

// Encode encodes v, a struct with yaml tags or a Tree, as a document that Decode accepts.
func Encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("strictyaml: encode: %w", err)
	}
	if err := enc.Close(); err != nil {
		return nil, fmt.Errorf("strictyaml: encode: %w", err)
	}
	return b.Bytes(), nil
}
