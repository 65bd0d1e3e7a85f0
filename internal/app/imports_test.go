package app

import (
	"go/build"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	modulePath = "github.com/secretbroker/secretbroker/"
	// maxImportChain is the maximum number of imports from this package to any other
	// package of the module that is not generated.
	maxImportChain = 6
)

// TestImportChain checks the length of the longest chain of imports, which docs/design.md
// states: to understand a package, one has to know what is below it.
func TestImportChain(t *testing.T) {
	longest := make(map[string][]string) // by package: the longest chain that begins with it
	var chain func(pkg string) []string
	chain = func(pkg string) []string {
		if c, ok := longest[pkg]; ok {
			return c
		}
		p, err := build.ImportDir(filepath.Join("..", "..", filepath.FromSlash(pkg)), 0)
		if err != nil {
			t.Fatal(err)
		}
		var below []string
		for _, path := range p.Imports {
			name, ours := strings.CutPrefix(path, modulePath)
			if !ours || strings.HasPrefix(name, "gen/") {
				continue
			}
			if c := chain(name); len(c) > len(below) {
				below = c
			}
		}
		longest[pkg] = slices.Concat([]string{pkg}, below)
		return longest[pkg]
	}
	if c := chain("internal/app"); len(c)-1 > maxImportChain {
		t.Errorf("%d imports, want at most %d: %s", len(c)-1, maxImportChain, strings.Join(c, " > "))
	} else if len(c) < 3 {
		t.Errorf("no chain found: %s", c)
	}
	design, err := os.ReadFile(filepath.Join("..", "..", "docs", "design.md"))
	if err != nil {
		t.Fatal(err)
	}
	// Every package of the program is in the picture.
	for pkg := range longest {
		if name := pkg[strings.LastIndex(pkg, "/")+1:] + "/"; !strings.Contains(string(design), name) {
			t.Errorf("docs/design.md does not mention %s", pkg)
		}
	}
}
