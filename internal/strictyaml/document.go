package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// MaxSize is the size in bytes of the largest file that is looked at.
const MaxSize = 1 << 20

// Document is a decoded file: it knows the line of every setting and collects
// the faults. It is not safe for concurrent use.
type Document struct {
	file   string
	lines  map[string]int
	broken map[string]bool // paths whose value was not decoded
	faults Faults
}

// Decode decodes data, the content of the named file, into the struct that into
// points to. It always returns a Document: what could be decoded has been, so
// that the caller can go on to validate it with Fault and then ask Faults for
// everything that is wrong.
//
// Settings are the fields with a yaml tag. They may be of the types string,
// bool, int, struct, pointer to struct, slice of these, map[string]string, Tree, and
// whatever implements encoding.TextUnmarshaler. A setting without a value is a
// fault; a list or section without one is there and empty.
func Decode(file string, data []byte, into any) *Document {
	d := &Document{file: file, lines: make(map[string]int), broken: make(map[string]bool)}
	d.lines[""] = 1
	if len(data) > MaxSize {
		d.spoil("", "the file is larger than the %d bytes that are allowed", MaxSize)
		return d
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var first, second yaml.Node
	switch err := dec.Decode(&first); {
	case errors.Is(err, io.EOF) || err == nil && isNull(first.Content[0]):
		d.spoil("", "the file is empty")
		return d
	case err != nil:
		d.syntax(data, err)
		return d
	}
	d.lines[""] = first.Content[0].Line
	d.decode(first.Content[0], "", reflect.ValueOf(into).Elem())
	switch err := dec.Decode(&second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		d.syntax(data, err)
	default:
		d.add(second.Line, "", `a second document begins here ("---"); a file holds one`)
	}
	return d
}

// Has reports whether the file contains the setting.
func (d *Document) Has(path string) bool {
	_, ok := d.lines[path]
	return ok
}

// Line returns the line of a setting; of one that is not there, the line of the
// section that it would be in.
func (d *Document) Line(path string) int {
	for {
		if line, ok := d.lines[path]; ok {
			return line
		}
		path = parent(path)
	}
}

// Fault records a fault of the setting at path. It is left out when
// that value could not be decoded, because that has been said already.
func (d *Document) Fault(path, format string, args ...any) {
	for p := path; ; p = parent(p) {
		if d.broken[p] {
			return
		}
		if p == "" {
			break
		}
	}
	d.add(d.Line(path), path, fmt.Sprintf(format, args...))
}

// Faults returns all faults so far in the order of their lines.
func (d *Document) Faults() Faults { return d.faults.sorted() }

// plainKey is what a key of a map looks like in a path without quotes.
var plainKey = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,256}$`)

// Key returns the path of an entry of the map at path.
func Key(path, key string) string {
	if plainKey.MatchString(key) {
		return path + "[" + key + "]"
	}
	return path + "[" + strconv.Quote(key) + "]"
}

// Index returns the path of an element of the list at path.
func Index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// parent returns a path nearer to the root. It may stop at places within a
// quoted or dotted key, which no setting has.
func parent(path string) string { return path[:max(0, strings.LastIndexAny(path, ".["))] }

func (d *Document) add(line int, path, text string) {
	d.faults = append(d.faults, Fault{File: d.file, Line: line, Path: path, Text: text})
}

// spoil records a fault that keeps the value at path from being decoded.
func (d *Document) spoil(path, format string, args ...any) {
	d.Fault(path, format, args...)
	d.broken[path] = true
}
