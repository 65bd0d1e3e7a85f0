package strictyaml

import (
	"fmt"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

const canary = "hunter2Passw0rd"

// checkCanary fails the test if an error for data contains the canary, unless the canary is
// used as a name: before a ":".
func checkCanary(t *testing.T, data string) (faulty bool) {
	t.Helper()
	doc := Decode("f.yaml", []byte(data), &sample{})
	faults := doc.Faults()
	for _, f := range faults {
		if strings.Contains(strings.ToLower(f.String()), strings.ToLower(canary)) && !isName(data) {
			t.Errorf("%q: the error contains the value: %s", data, f)
		}
		if f.Line < 1 && !strings.HasSuffix(f.Text, "are not listed") || f.Line > len(lineBreak.FindAllString(data, -1))+2 {
			t.Errorf("%q: a line that does not exist: %s", data, f)
		}
	}
	return len(faults) > 0
}

// isName reports whether the first document is YAML and has the canary in a name with a
// value.
func isName(data string) bool {
	var n yaml.Node
	return yaml.NewDecoder(strings.NewReader(data)).Decode(&n) == nil && named(&n)
}

func named(n *yaml.Node) bool {
	for i, c := range n.Content {
		if named(c) {
			return true
		}
		if n.Kind == yaml.MappingNode && i%2 == 0 && strings.Contains(strings.ToLower(c.Value), strings.ToLower(canary)) && !isNull(n.Content[i+1]) {
			return true
		}
	}
	return false
}

// TestFaultsShowNoValue: a value may be anywhere in a file, after any YAML syntax and before
// anything that makes the file invalid.
func TestFaultsShowNoValue(t *testing.T) {
	const at = "@@"
	places := []string{
		at, "name: " + at, "- " + at, "list: [a, " + at + "]", "list:\n  - " + at + "\n  - b", "count: " + at, "enabled: " + at,
		"ttl: " + at, "max_bytes: " + at, "section: {cert_file: " + at + "}", "section: {cert_file: a," + at + "}",
		"section:\n  key_file: " + at + "\n  cert_file: c", "section:\n  " + at + "\n  cert_file: c", "table: {x: " + at + "}",
		"table: {x: a," + at + "}", "items: [{tags: [" + at + "]}]", "name: |\n  " + at, "name: |\n" + at, "name: a\n" + at,
		"tree: {x: a," + at + "}", "tree: {x: [" + at + ", null]}", "tree:\n  a:\n    " + at + ":\n  b: 1", "tree: {" + at + ": *x}",
		"name: >-\n  a\n " + at, "name: a\n---\nname: " + at, "%" + at + "\n---\nname: a", "name: a # " + at, "unknown: " + at,
		"name: a\nname: " + at, "table: {x: a, x: " + at + "}", "optional: {inner: " + at + "}", "? " + at, "name: &x a\nlist: [*x, " + at + "]",
	}
	befores := []string{
		"", "*", "&", "&a *", "!", "!!", "!a!", "!<", "'", `"`, `"\`, "[", "{", "]", "}", "%", "|", ">", "|0", "? ", "- ", "@", "`", ", ",
		"# ", "\t", "<<: *", "\x00", "\xff", "a: b: ", "*a *", "<<: ", "- - ", "a\n", "a\n  ", "a\nb\n", "-----BEGIN KEY-----\n", "[*", "{*", "{a: *", "&a\n*",
	}
	afters := []string{"", "'", `"`, "]", "}", "\x00", " : [", "\n---\n["}
	tried, faulty := 0, 0
	for _, place := range places {
		for _, before := range befores {
			for _, after := range afters {
				for _, end := range []string{"", "\ncount: 1\n"} {
					tried++
					if checkCanary(t, strings.ReplaceAll(place, at, before+canary+after)+end) {
						faulty++
					}
				}
			}
		}
	}
	if faulty < tried/2 {
		t.Errorf("only %d of %d documents are broken", faulty, tried)
	}
}

func FuzzFaultsShowNoValue(f *testing.F) {
	f.Add("name: *", "\n")
	f.Add("section: {cert_file: a,", "}\n")
	f.Add("name: a\n---\n!", "!x\n\x00")
	f.Add("%TAG !", "! x\n---\n")
	f.Fuzz(func(t *testing.T, before, after string) { checkCanary(t, before+canary+after) })
}

// TestLocateInALargeFile: an error at the end of a large file is found without parsing the
// file line by line.
func TestLocateInALargeFile(t *testing.T) {
	const lines = 20_000
	data := []byte(strings.Repeat("# x\n", lines) + "name: *x\n")
	got := Decode("f.yaml", data, &sample{}).Faults().Error()
	if want := fmt.Sprintf("f.yaml:%d: ", lines+1); !strings.HasPrefix(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
