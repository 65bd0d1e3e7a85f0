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

// Tree is a section whose settings are another package's: it takes whatever is
// there. Its values are strings, bools, ints, Trees and []any of these. A number
// that an int does not say exactly as it is written (010, 1e3, one beyond 2^53)
// stays a string.
type Tree map[string]any

var treeType = reflect.TypeFor[Tree]()

// settingName tells settings from the names of a table's entries.
var settingName = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// maxTreeDepth bounds what Decode takes into a Tree.
const maxTreeDepth = 16

// maxExactInt is the largest number that JSON's readers agree on.
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

// treeValue returns nil, with a fault, for what a Tree cannot hold.
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

// Encode writes v, a struct with yaml tags or a Tree, as a document that Decode
// reads.
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

// MarshalText writes a Duration as UnmarshalText reads it.
func (d Duration) MarshalText() ([]byte, error) {
	s := d.String()
	// "5m0s" is what people write as "5m".
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return []byte(s), nil
}
