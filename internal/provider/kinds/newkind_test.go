package kinds

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// A complete kind of store, as CONTRIBUTING.md describes it. Its references are those
// of an existing kind, because package secret defines the syntax of references.

type shelfSection struct {
	Shelf string `yaml:"shelf"`
}

type shelfSettings struct{ Shelf string }

func (s *shelfSettings) StoreNames() []string { return []string{"file://" + s.Shelf} }
func (s *shelfSettings) List() []integration.Setting {
	return []integration.Setting{{Name: "shelf.shelf", Value: s.Shelf}}
}

func (s *shelfSettings) Facts() (f integration.Facts) {
	f.Add("SHELF", "Shelf", s.Shelf)
	return f
}

func shelfSpec() integration.Spec {
	return integration.Spec{
		Kind: secret.KindLocalFile, Section: "shelf", Mutable: []string{"shelf.shelf"},
		Parse: integration.ParseSection(func(p *integration.Parser, s *shelfSection) integration.Settings {
			if !strings.HasPrefix(s.Shelf, "/") {
				p.Fault("shelf.shelf", "expected an absolute path")
			}
			return &shelfSettings{s.Shelf}
		}),
	}
}

type shelf struct{}

func (shelf) Fetch(_ context.Context, ref secret.Ref) (*secret.Secret, error) {
	return secret.New("1", time.Now(), time.Time{}, []byte("value of "+ref.Name)), nil
}
func (shelf) Close() error { return nil }

func openShelf(context.Context, *integration.Integration) (provider.Provider, error) {
	return shelf{}, nil
}

func TestNewKind(t *testing.T) {
	all := integration.NewKinds(shelfSpec())
	const document = "id: x\nkind: LOCAL_FILE\nshelf:\n  shelf: /run/shelf\n"
	parsed := all.ParseDocument([]byte(document), integration.DocumentConfig{})
	if err := parsed.Faults.Err(); err != nil {
		t.Fatal(err)
	}
	in := parsed.Integration
	set := provider.NewSet(provider.SetConfig{Openers: map[secret.Kind]provider.Opener{shelfSpec().Kind: openShelf}})
	defer func() {
		if err := set.Close(); err != nil {
			t.Error(err)
		}
	}()
	got, err := set.Fetch(t.Context(), in, ref(t, "file:///run/shelf::db"))
	if err != nil || got.Version != "1" {
		t.Fatalf("%v, %v", got, err)
	}
	if diff := cmp.Diff(integration.Facts{{ID: "SHELF", Name: "Shelf", Value: "/run/shelf"}}, in.Facts()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]integration.Setting{{Name: "shelf.shelf", Value: "/run/shelf"}}, in.ListSettings()); diff != "" {
		t.Error(diff)
	}
	doc := all.DecodeDocument("x", []byte(document))
	written, err := doc.Encode()
	if err != nil || !strings.Contains(string(written), "shelf: /run/shelf") {
		t.Errorf("%s, %v", written, err)
	}
	if !all.IsMutable(in.Kind, "shelf.shelf") || all.IsMutable(in.Kind, "shelf.other") {
		t.Error("who may change the settings is not as the Spec says")
	}
	if bad := all.ParseDocument([]byte(strings.Replace(document, "/run", "run", 1)), integration.DocumentConfig{}); len(bad.Faults) != 1 {
		t.Errorf("faults: %v", bad.Faults)
	}
}

// TestOnlyTheListKnowsKinds checks that no other package refers to a kind of store.
func TestOnlyTheListKnowsKinds(t *testing.T) {
	root := filepath.Join("..", "..", "..")
	imports := regexp.MustCompile(`"github\.com/secretbroker/secretbroker/internal/provider/(azurekv|awssm|gcpsm|vaultkv|localfile)"`)
	seen := 0
	for _, top := range []string{"internal", "cmd", "client"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil || !imports.Match(data) {
				return err
			}
			seen++
			if filepath.Base(filepath.Dir(path)) != "kinds" {
				t.Errorf("%s imports the package of a kind; only provider/kinds does", path)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if seen != 1 {
		t.Errorf("%d files import the packages of kinds, want the list alone", seen)
	}
}
