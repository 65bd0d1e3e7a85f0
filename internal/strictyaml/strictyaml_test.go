package strictyaml

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type sample struct {
	Name    string            `yaml:"name"`
	Enabled bool              `yaml:"enabled"`
	Count   int               `yaml:"count"`
	TTL     Duration          `yaml:"ttl"`
	Max     Bytes             `yaml:"max_bytes"`
	List    []string          `yaml:"list"`
	Table   map[string]string `yaml:"table"`
	Section struct {
		CertFile string `yaml:"cert_file"`
		KeyFile  string `yaml:"key_file"`
	} `yaml:"section"`
	Optional *struct {
		Inner string `yaml:"inner"`
	} `yaml:"optional"`
	Items []struct {
		Tags []string `yaml:"tags"`
	} `yaml:"items"`
	Tree    Tree `yaml:"tree"`
	derived string
}

func TestDecode(t *testing.T) {
	const good = `# a comment
name: 010
enabled: true
count: -3
ttl: 1h30m
max_bytes: 64MiB
list: [a, "b c"]
table: {x.example.org: 127.0.0.1:1, y: "2"}
section:
  cert_file: c
optional:
items:
  - tags: [t]
  - tags:
`
	var got sample
	doc := Decode("f.yaml", []byte(good), &got)
	if err := doc.Faults().Err(); err != nil {
		t.Fatal(err)
	}
	if got.Name != "010" || !got.Enabled || got.Count != -3 || time.Duration(got.TTL) != 90*time.Minute || got.Max != 64<<20 {
		t.Errorf("single values: %+v", got)
	}
	if diff := cmp.Diff([]string{"a", "b c"}, got.List); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"x.example.org": "127.0.0.1:1", "y": "2"}, got.Table); diff != "" {
		t.Error(diff)
	}
	if got.Section.CertFile != "c" || got.Optional == nil || got.derived != "" {
		t.Errorf("sections: %+v", got)
	}
	if len(got.Items) != 2 || got.Items[1].Tags == nil || len(got.Items[1].Tags) != 0 {
		t.Errorf("a list without a value must be present and empty: %+v", got.Items)
	}
	lines := map[string]int{
		"name": 2, "list[1]": 7, "table[x.example.org]": 8, "section": 9, "section.cert_file": 10,
		"section.key_file": 9, "optional.inner.deeper": 11, "items[1]": 14, "items[1].tags[7]": 14, "nowhere": 2,
	}
	for path, want := range lines {
		if got := doc.Line(path); got != want {
			t.Errorf("Line(%q) = %d, want %d", path, got, want)
		}
	}
	if !doc.Has("optional") || doc.Has("section.key_file") || doc.Has("nowhere") {
		t.Error("Has is wrong")
	}
}

func TestDecodeFaults(t *testing.T) {
	tests := []struct{ name, data, want string }{
		{"empty", "", "f.yaml:1: the file is empty"},
		{"comment only", "# nothing\n", "f.yaml:1: the file is empty"},
		{"empty document", "---\n", "f.yaml:1: the file is empty"},
		{"null", "null\n", "f.yaml:1: the file is empty"},
		{"syntax", "name: a\nlist: [a\ncount: 1\n", "f.yaml:2: not YAML, here or soon after: did not find expected ',' or ']'"},
		{"tab", "section:\n\tcert_file: a\n", "f.yaml:2: not YAML, here or soon after: found character that cannot start any token"},
		{"indentation", "name: a\nsection:\n    cert_file: a\n  key_file: b\n", "f.yaml:4: not YAML, here or soon after: did not find expected key"},
		{"first line", "name: a: b\n", "f.yaml:1: not YAML, here or soon after: mapping values are not allowed in this context"},
		{"binary", "name: \x00\n", "f.yaml:1: not YAML, here or soon after: control characters are not allowed"},
		{"binary further down", "name: a\n# c\nlist:\n  - b\n  - \x00\n", "f.yaml:5: not YAML, here or soon after: control characters are not allowed"},
		{"not UTF-8", "name: a\r\ncount: 1\rlist: [\xff]\n", "f.yaml:3: not YAML, here or soon after: invalid leading UTF-8 octet"},
		{"undefined alias", "name: a\nsection:\n  # *hunter2Passw0rd\n  cert_file: *hunter2Passw0rd\ncount: 1\n", `f.yaml:4: not YAML: an undefined alias ("*..."); quote a value that begins with "*"`},
		{"undefined alias, last line", "name: '*a\n *b'\nlist: [c, *b]", `f.yaml:3: not YAML: an undefined alias ("*..."); quote a value that begins with "*"`},
		{"undefined alias, second document", "name: a\n---\nname: *hunter2\n", `f.yaml:3: not YAML: an undefined alias ("*..."); quote a value that begins with "*"`},
		{"tag handle", "name: a\ncount: !hunter2!x 1\n", "f.yaml:2: not YAML, here or soon after: found undefined tag handle"},
		{"directive", "name: a\n...\n%YAML 3.0\n---\n", "f.yaml:3: not YAML, here or soon after: found incompatible YAML document"},
		{"root list", "- a\n", "f.yaml:1: expected a section of settings (name: value), found a list"},
		{"root value", "hunter2\n", "f.yaml:1: expected a section of settings (name: value), found a single value"},
		{"second document", "name: a\n---\nname: b\n", `f.yaml:2: a second document begins here ("---"); a file may have only one`},
		{"second document broken", "name: a\n---\nname: [\n", "f.yaml:4: not YAML, here or soon after: did not find expected node content"},

		{"unknown, close", "nmae: a\n", `f.yaml:1: unknown setting "nmae"; did you mean "name"?`},
		{"unknown, other case", "maxBytes: 1\n", `f.yaml:1: unknown setting "maxBytes"; did you mean "max_bytes"?`},
		{"unknown, beginning", "name: a\nsection:\n  cert: hunter2\n", `f.yaml:3: section: unknown setting "cert"; did you mean "cert_file"?`},
		{"unknown, far", "section:\n  password: hunter2\n", `f.yaml:2: section: unknown setting "password"; known here: cert_file, key_file`},
		{"unknown, long", strings.Repeat("x", 200) + ": 1\n", `f.yaml:1: unknown setting "` + strings.Repeat("x", 64) + `..."; known here: name, enabled, count, ttl, max_bytes, list, table, section, optional, items, tree`},
		{"unknown in list", "items:\n  - tags: []\n    tag: a\n", `f.yaml:3: items[0]: unknown setting "tag"; did you mean "tags"?`},
		{"unknown without value, close", "nmae:\n", `f.yaml:1: unknown setting without a value; did you mean "name"?`},
		{"unknown without value, far", "section: {cert_file: a,hunter2}\n", `f.yaml:1: section: unknown setting without a value; known here: cert_file, key_file`},
		{"table entry without value", "table: {a: b,hunter2}\n", `f.yaml:1: table: an entry has no value; add a value or remove the entry`},
		{"duplicates without value", "section: {cert_file: a,hunter2,hunter2}\n", `f.yaml:1: section: unknown setting without a value; known here: cert_file, key_file
f.yaml:1: section: a name without a value is set twice, first on line 1`},
		{"merge", "name: a\n<<: {count: 1}\n", `f.yaml:2: merging ("<<") is not allowed; write the settings out`},
		{"duplicate", "name: a\ncount: 1\nname: b\n", `f.yaml:3: "name" is set twice, first on line 1`},
		{"duplicate in table", "table:\n  a: b\n  a: c\n", `f.yaml:3: table: "a" is set twice, first on line 2`},
		{"list as name", "? [a]\n: b\n", `f.yaml:1: expected a name before the ":"`},
		{"alias", "name: &n a\nlist: [*n]\n", "f.yaml:2: list[0]: aliases are not allowed; write the value out"},
		{"alias as name", "name: &n a\n*n : b\n", `f.yaml:2: expected a name before the ":"`},
		{"tag", "name: !!binary aGk=\n", `f.yaml:1: name: tags ("!...") are not allowed; write the plain value`},

		{"text is a list", "name: [a]\n", "f.yaml:1: name: expected a single value, found a list"},
		{"text is a section", "name: {a: b}\n", "f.yaml:1: name: expected a single value, found a section"},
		{"text is missing", "count: 1\nname:\n", "f.yaml:2: name: there is no value; add a value or remove the setting"},
		{"text is empty", `name: ""`, "f.yaml:1: name: there is no value; add a value or remove the setting"},
		{"bool", "enabled: yes\n", "f.yaml:1: enabled: expected true or false, without quotes"},
		{"bool quoted", `enabled: "true"`, "f.yaml:1: enabled: expected true or false, without quotes"},
		{"number", "count: 1.5\n", "f.yaml:1: count: expected a whole number"},
		{"list is a value", "list: hunter2\n", "f.yaml:1: list: expected a list, found a single value"},
		{"list element", "list:\n  - a\n  - [b]\n", "f.yaml:3: list[1]: expected a single value, found a list"},
		{"list element missing", "list:\n  - a\n  -\n", "f.yaml:3: list[1]: there is no value; add a value or remove the setting"},
		{"table is a list", "table: [a]\n", "f.yaml:1: table: expected a table (name: value), found a list"},
		{"table element", "table:\n  \"a\\nb\": []\n", `f.yaml:2: table["a\nb"]: expected a single value, found a list`},
		{"section is a value", "section: hunter2\n", "f.yaml:1: section: expected a section of settings (name: value), found a single value"},

		{"duration without unit", "ttl: 300\n", `f.yaml:1: ttl: expected a duration with its unit, such as "30s", "5m" or "90d"`},
		{"duration zero", "ttl: 0\n", `f.yaml:1: ttl: expected a duration with its unit, such as "30s", "5m" or "90d"`},
		{"duration other", "ttl: soon\n", `f.yaml:1: ttl: expected a duration with its unit, such as "30s", "5m" or "90d"`},
		{"bytes", "max_bytes: much\n", `f.yaml:1: max_bytes: expected an amount of bytes, such as "64MiB"`},
		{"bytes negative", "max_bytes: -1\n", `f.yaml:1: max_bytes: expected an amount of bytes, such as "64MiB"`},
		{"bytes overflow", "max_bytes: 16EiB\n", `f.yaml:1: max_bytes: expected an amount of bytes, such as "64MiB"`},
		{"bytes over int64", "max_bytes: 9EiB\n", `f.yaml:1: max_bytes: expected an amount of bytes, such as "64MiB"`},

		{"all at once", "count: x\nnmae: a\nttl: 5\nname: a\nname: b\n", `f.yaml:1: count: expected a whole number
f.yaml:2: unknown setting "nmae"; did you mean "name"?
f.yaml:3: ttl: expected a duration with its unit, such as "30s", "5m" or "90d"
f.yaml:5: "name" is set twice, first on line 4`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Decode("f.yaml", []byte(tt.data), &sample{}).Faults()
			if diff := cmp.Diff(tt.want, got.Error()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDecodeBounds(t *testing.T) {
	tooLarge := make([]byte, MaxSize+1)
	got := Decode("f.yaml", tooLarge, &sample{}).Faults().Error()
	if want := "f.yaml:1: the file is larger than the allowed 1048576 bytes"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}

	var bomb strings.Builder
	bomb.WriteString("l0: &l0 [a,a,a,a,a,a,a,a,a,a]\n")
	for i := 1; i < 20; i++ {
		p := string(rune('a' + i - 1))
		bomb.WriteString("list: &" + string(rune('a'+i)) + " [*" + p + ",*" + p + ",*" + p + "]\n")
	}
	if Decode("f.yaml", []byte(bomb.String()), &sample{}).Faults() == nil {
		t.Error("aliases within aliases were accepted")
	}

	many := strings.Repeat("- [x]\n", 500)
	faults := Decode("f.yaml", []byte("list:\n"+many), &sample{}).Faults()
	if len(faults) != maxFaults+1 {
		t.Fatalf("%d faults, want %d and a last one", len(faults), maxFaults)
	}
	if got, want := faults[maxFaults].String(), "f.yaml: 400 more problems are not listed"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestFault(t *testing.T) {
	const data = "name: a\nsection:\n  cert_file: [x]\n  key_file: k\n"
	doc := Decode("f.yaml", []byte(data), &sample{})
	doc.Fault("section.key_file", "not a %s", "key")
	doc.Fault("section.cert_file", "reported by Decode")
	doc.Fault("section.cert_file[0]", "reported by Decode")
	doc.Fault("list", "missing")
	doc.Fault("section.other", "missing")
	want := `f.yaml:1: list: missing
f.yaml:2: section.other: missing
f.yaml:3: section.cert_file: expected a single value, found a list
f.yaml:4: section.key_file: not a key`
	if diff := cmp.Diff(want, doc.Faults().Error()); diff != "" {
		t.Error(diff)
	}

	doc = Decode("f.yaml", []byte("{"), &sample{})
	doc.Fault("name", "missing")
	if got := doc.Faults(); len(got) != 1 {
		t.Errorf("a file that is not YAML also has problems with settings: %v", got)
	}
	if err := (Faults{}).Err(); err != nil {
		t.Errorf("no problems are an error: %v", err)
	}
}

func TestRenamed(t *testing.T) {
	renamed := map[string]string{"old": "section.cert_file", "section.cert": "section.cert_file"}
	const data = "old: hunter2\nsection:\n  cert: hunter2\n  old: hunter2\ncount: x\n"
	want := `f.yaml:1: unknown setting "old"; it is now section.cert_file
f.yaml:3: section: unknown setting "cert"; it is now section.cert_file
f.yaml:4: section: unknown setting "old"; known here: cert_file, key_file
f.yaml:5: count: expected a whole number`
	if diff := cmp.Diff(want, DecodeRenamed("f.yaml", []byte(data), &sample{}, renamed).Faults().Error()); diff != "" {
		t.Error(diff)
	}
}

func TestUnsupportedField(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a field of an unsupported type was decoded")
		}
	}()
	Decode("f.yaml", []byte("x: 1\n"), &struct {
		X float64 `yaml:"x"`
	}{})
}

func TestString(t *testing.T) {
	if got := Bytes(64 << 20).String(); got != "64 MiB" {
		t.Error(got)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("name: a\nlist: [a]\ntable: {a: b}\nitems: [{tags: [x]}]\nttl: 5m\nmax_bytes: 1MiB\n")
	f.Add("a: &a [*a]\n")
	f.Add("<<: {}\n? [x]\n: y\n---\n")
	f.Fuzz(func(t *testing.T, data string) {
		var s sample
		doc := Decode("f.yaml", []byte(data), &s)
		doc.Fault("section.key_file", "x")
		for _, fault := range doc.Faults() {
			if fault.Line < 0 || fault.Line > strings.Count(data, "\n")+strings.Count(data, "\r")+strings.Count(data, "\u0085")+strings.Count(data, "\u2028")+strings.Count(data, "\u2029")+2 {
				t.Errorf("a line that does not exist: %v", fault)
			}
			if strings.ContainsAny(fault.Path, "\n\r") {
				t.Errorf("a path of more than one line: %q", fault.Path)
			}
		}
	})
}
