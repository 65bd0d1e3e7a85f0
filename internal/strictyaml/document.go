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

// MaxSize is the maximum size of a file, in bytes.
const MaxSize = 1 << 20

// Document is a decoded file. It knows the line of every setting and collects the problems.
// It is not safe for concurrent use.
type Document struct {
	file   string
	lines  map[string]int
	broken map[string]bool // paths of values that could not be decoded
	// renamed are the former paths of settings, with what to write instead.
	renamed map[string]string
	faults  Faults
}

// Decode decodes data, the content of the named file, into the struct that into points to. It
// always returns a Document and decodes as much as possible, so that the caller can validate
// the result with Fault and then get all problems from Faults.
//
// Settings are the fields with a yaml tag. They may have the types string, bool, int, struct,
// pointer to struct, slice of these, map[string]string, Tree, and types that implement
// encoding.TextUnmarshaler. A setting without a value is an error; a list or section without
// one is present and empty.
func Decode(file string, data []byte, into any) *Document {
	return DecodeRenamed(file, data, into, nil)
}

// DecodeRenamed is Decode for settings that had other names before. renamed maps the former
// paths, such as "registry.files", to what to write instead. A setting with a former name is
// an error, like any other unknown setting, and the error contains this text.
func DecodeRenamed(file string, data []byte, into any, renamed map[string]string) *Document {
	d := &Document{file: file, lines: make(map[string]int), broken: make(map[string]bool), renamed: renamed}
	d.lines[""] = 1
	if len(data) > MaxSize {
		d.spoil("", "the file is larger than the allowed %d bytes", MaxSize)
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
		d.add(second.Line, "", `a second document begins here ("---"); a file may have only one`)
	}
	return d
}

// Has reports whether the file contains the setting.
func (d *Document) Has(path string) bool {
	_, ok := d.lines[path]
	return ok
}

// Line returns the line of a setting. For a setting that is not in the file, it returns the
// line of the section to which the setting belongs.
func (d *Document) Line(path string) int {
	for {
		if line, ok := d.lines[path]; ok {
			return line
		}
		path = parent(path)
	}
}

// Fault records a problem with the setting at path. It is ignored if the value could not be
// decoded, because Decode has already reported that.
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

// Faults returns all problems so far, sorted by line.
func (d *Document) Faults() Faults { return d.faults.sorted() }

// plainKey matches the keys of a map that need no quotes in a path.
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

// parent returns a path nearer to the root. The result may end within a quoted or dotted key,
// where no setting is.
func parent(path string) string { return path[:max(0, strings.LastIndexAny(path, ".["))] }

func (d *Document) add(line int, path, text string) {
	d.faults = append(d.faults, Fault{File: d.file, Line: line, Path: path, Text: text})
}

// spoil records a problem that prevents the decoding of the value at path.
func (d *Document) spoil(path, format string, args ...any) {
	d.Fault(path, format, args...)
	d.broken[path] = true
}
