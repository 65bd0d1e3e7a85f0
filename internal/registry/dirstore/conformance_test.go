package dirstore_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/registry/dirstore"
	"github.com/secretbroker/secretbroker/internal/registry/registrytest"
)

func TestFilesConformance(t *testing.T) {
	registrytest.Run(t, func(t *testing.T) *registrytest.Backend {
		dir := t.TempDir()
		return &registrytest.Backend{
			Open: func(t *testing.T, s registrytest.Settings) registry.Store {
				f, err := dirstore.Open(dirstore.Config{Kinds: kinds.All(), Dir: dir, OnChange: s.OnChange})
				if err != nil {
					t.Fatal(err)
				}
				return f
			},
			Write: func(t *testing.T, id, document string) {
				path := filepath.Join(dir, id+".yaml")
				if document == "" {
					if err := os.Remove(path); err != nil {
						t.Fatal(err)
					}
					return
				}
				// Renaming replaces the file in one step.
				if err := os.WriteFile(path+".new", []byte(document), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Rename(path+".new", path); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}
