package kinds_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestFactIDs compares the ids of the facts of all kinds with testdata/facts.txt. The ids are
// a part of the API: add new ones to the file, and neither rename nor remove one.
func TestFactIDs(t *testing.T) {
	sources, err := filepath.Glob("../*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	add := regexp.MustCompile(`\.Add(?:All)?\("([^"]*)", "|\bID: +"([A-Z_]+)"`)
	var ids []string
	for _, file := range append(sources, "../../integration/facts.go") {
		if name := filepath.Base(file); strings.HasSuffix(name, "_test.go") || name != "facts.go" && name != "policies.go" {
			continue
		}
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range add.FindAllStringSubmatch(string(source), -1) {
			ids = append(ids, m[1]+m[2])
		}
	}
	slices.Sort(ids)
	want, err := os.ReadFile("testdata/facts.txt")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(slices.Compact(ids), "\n") + "\n"; got != string(want) {
		t.Errorf("the ids of facts are\n%s\ntestdata/facts.txt has\n%s", got, want)
	}
}
