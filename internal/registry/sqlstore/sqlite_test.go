package sqlstore

import (
	"context"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/registry/registrytest"
	"github.com/secretbroker/secretbroker/internal/registry/seal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// keyFile creates a key file and opens it.
func keyFile(t *testing.T) (string, *seal.Keys) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "registry.key")
	if err := seal.Create(path); err != nil {
		t.Fatal(err)
	}
	keys, err := seal.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, keys
}

func newKeys(t *testing.T) *seal.Keys {
	t.Helper()
	_, keys := keyFile(t)
	return keys
}

// changeKeys changes a key file and reloads it.
func changeKeys(t *testing.T, path string, keys *seal.Keys, steps ...func(string) error) {
	t.Helper()
	for _, step := range steps {
		if err := step(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := keys.Reload(); err != nil {
		t.Fatal(err)
	}
}

// create creates an integration, with credentials if their values are given. update
// changes it.
func create(t *testing.T, s *Store, document []byte, credentials ...string) registry.Record {
	t.Helper()
	return change(t, s.Create, document, credentials)
}

func update(t *testing.T, s *Store, document []byte, credentials ...string) registry.Record {
	t.Helper()
	return change(t, s.Update, document, credentials)
}

func change(t *testing.T, make func(context.Context, registry.Change) (registry.Record, error), document []byte, credentials []string) registry.Record {
	t.Helper()
	c := registry.Change{Document: document}
	for _, text := range credentials {
		c.Credentials = secrets(text)
	}
	r, err := make(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func get(t *testing.T, s *Store, id string) *integration.Integration {
	t.Helper()
	in, err := s.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func execute(t *testing.T, s *Store, queries ...string) {
	t.Helper()
	for _, query := range queries {
		if _, err := s.db.ExecContext(t.Context(), query); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
}

// openSQLite opens a Store that closes when the test ends.
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
			return openSQLite(t, file, Config{Kinds: kinds.All(), Sealer: keys, MaxIntegrations: s.MaxIntegrations, OnChange: s.OnChange})
		}}
	})
}
