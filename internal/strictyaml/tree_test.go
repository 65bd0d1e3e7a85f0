package strictyaml

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type withTree struct {
	ID      string   `yaml:"id"`
	TTL     Duration `yaml:"ttl,omitempty"`
	Section Tree     `yaml:"section,omitempty"`
}

func TestTree(t *testing.T) {
	const text = `id: x
ttl: 5m
section:
  account: 012345678901
  big: 9007199254740993
  dial: {a.example.org: 127.0.0.1:1}
  list: [a, 1, {b: c}]
  n: 42
  quoted: "42"
  truth: true
`
	want := withTree{ID: "x", TTL: Duration(5 * time.Minute), Section: Tree{
		"account": "012345678901", "big": "9007199254740993", "n": 42, "quoted": "42", "truth": true,
		"list": []any{"a", 1, Tree{"b": "c"}}, "dial": Tree{"a.example.org": "127.0.0.1:1"},
	}}
	var got withTree
	doc := Decode("f.yaml", []byte(text), &got)
	if err := doc.Faults().Err(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	for path, line := range map[string]int{"section.list[1]": 7, "section.dial[a.example.org]": 6, "section.n": 8} {
		if got := doc.Line(path); got != line {
			t.Errorf("Line(%q) = %d, want %d", path, got, line)
		}
	}
	encoded, err := Encode(got)
	if err != nil {
		t.Fatal(err)
	}
	var again withTree
	if err := Decode("g.yaml", encoded, &again).Faults().Err(); err != nil {
		t.Fatalf("%v\n%s", err, encoded)
	}
	if diff := cmp.Diff(want, again); diff != "" {
		t.Errorf("the decoded document differs from the encoded one: %s\n%s", diff, encoded)
	}
}

func TestTreeFaults(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"section: {a: &x 1, b: *x}", "f.yaml:1: section.b: aliases are not allowed; write the value out"},
		{"section: {a: !!str 1}", `f.yaml:1: section.a: tags ("!...") are not allowed; write the plain value`},
		{"section: {a: 1, a: 2}", `f.yaml:1: section: "a" is set twice, first on line 1`},
		{"section:\n  a:\n  b: 1", "f.yaml:2: section: a setting has no value; add a value or remove the setting"},
		{"section: {a: [b, null]}", "f.yaml:1: section.a[1]: there is no value; add a value or remove the setting"},
		{"section: [a]", "f.yaml:1: section: expected a section of settings (name: value), found a list"},
		{"section: {a: " + strings.Repeat("[", 20) + strings.Repeat("]", 20) + "}", "f.yaml:1: section.a" + strings.Repeat("[0]", 16) + ": nested too deeply"},
	} {
		if got := Decode("f.yaml", []byte(tt.text), &withTree{}).Faults().Error(); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.text, got, tt.want)
		}
	}
}

func TestDurationText(t *testing.T) {
	for d, want := range map[time.Duration]string{
		5 * time.Minute: "5m", time.Hour: "1h", 90 * time.Minute: "1h30m", 90 * time.Second: "1m30s", 0: "0s", 4 * time.Second: "4s", 10 * time.Hour: "10h",
	} {
		text, err := Duration(d).MarshalText()
		if err != nil || string(text) != want {
			t.Errorf("%v: %q, want %q", d, text, want)
		}
		var back Duration
		if err := back.UnmarshalText(text); err != nil || time.Duration(back) != d {
			t.Errorf("%q is parsed as %v, %v", text, back, err)
		}
	}
}
