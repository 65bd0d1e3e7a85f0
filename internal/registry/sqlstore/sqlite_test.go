package sqlstore

import (
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/registry/registrytest"
	"github.com/secretbroker/secretbroker/internal/registry/seal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newKeys makes a key file and opens it.
func newKeys(t *testing.T) *seal.Keys {
	t.Helper()
	path := filepath.Join(t.TempDir(), "registry.key")
	if err := seal.Create(path); err != nil {
		t.Fatal(err)
	}
	keys, err := seal.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// openSQLite opens a Store that closes with the test.
func openSQLite(t *testing.T, file string, c Config) *Store {
	t.Helper()
	s, err := OpenSQLite(t.Context(), file, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestSQLiteConformance(t *testing.T) {
	registrytest.Run(t, func(t *testing.T) *registrytest.Backend {
		file, keys := filepath.Join(t.TempDir(), "a registry?.db"), newKeys(t)
		return &registrytest.Backend{Open: func(t *testing.T, s registrytest.Settings) registry.Store {
			return openSQLite(t, file, Config{Sealer: keys, MaxIntegrations: s.MaxIntegrations, OnChange: s.OnChange})
		}}
	})
}
