//go:build unix

package app

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/registry/seal"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore/pgtest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// testDatabase is one that a configuration file names.
type testDatabase struct {
	configFile, keyFile string
	keys                *seal.Keys
	entry               string // in registry
	// open opens it as a broker does.
	open func(t *testing.T) *sqlstore.Store
	// file is that of a SQLite database, server that of a PostgreSQL one.
	file   string
	server *pgtest.Server
}

// databases runs a test on an empty database of each kind.
func databases(t *testing.T, test func(t *testing.T, db *testDatabase)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "registry.db")
		db := newTestDatabase(t, "sqlite: {file: '"+file+"'}", func(c sqlstore.Config) (*sqlstore.Store, error) { return sqlstore.OpenSQLite(t.Context(), file, c) })
		db.file = file
		test(t, db)
	})
	t.Run("postgres", func(t *testing.T) {
		server := pgtest.New(t)
		p := sqlstore.Postgres{URL: server.URL("postgres")}
		db := newTestDatabase(t, "postgres: {url: '"+p.URL+"'}", func(c sqlstore.Config) (*sqlstore.Store, error) { return sqlstore.OpenPostgres(t.Context(), p, c) })
		db.server = server
		test(t, db)
	})
}

// newTestDatabase writes a configuration with that entry in registry, and a key file.
func newTestDatabase(t *testing.T, entry string, open func(sqlstore.Config) (*sqlstore.Store, error)) *testDatabase {
	t.Helper()
	dir := t.TempDir()
	db := &testDatabase{entry: entry, configFile: filepath.Join(dir, "secretbroker.yaml"), keyFile: filepath.Join(dir, "registry.key")}
	if err := seal.Create(db.keyFile); err != nil {
		t.Fatal(err)
	}
	var err error
	if db.keys, err = seal.Open(db.keyFile); err != nil {
		t.Fatal(err)
	}
	db.open = func(t *testing.T) *sqlstore.Store {
		t.Helper()
		s, err := open(sqlstore.Config{Kinds: kinds.All(), Sealer: db.keys, MaxIntegrations: 1000})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	text := "spiffe: {socket: unix:///run/spire/agent.sock, trust_domain: example.org}\naudit: {file: audit.jsonl}\nregistry: {" + entry + ", seal: {key_file: registry.key}}\n"
	if err := os.WriteFile(db.configFile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return db
}

// command runs a command as a user types it.
func command(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd := newRootCommand()
	var out, errs bytes.Buffer
	cmd.SetArgs(args)
	cmd.SetIn(strings.NewReader(""))
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	code = execute(t.Context(), cmd)
	return code, out.String(), errs.String()
}

// TestKeyDrop: a key is dropped once nothing in the database is sealed with it.
func TestKeyDrop(t *testing.T) {
	databases(t, func(t *testing.T, db *testDatabase) {
		s := db.open(t)
		for i := range 7 {
			if _, err := s.Create(t.Context(), registry.Change{
				Document:    fmt.Appendf(nil, "id: i%d\nkind: AZURE_KEY_VAULT\nazure:\n  tenant_id: 11111111-2222-3333-4444-555555555555\n  client_id: 66666666-7777-8888-9999-aaaaaaaaaaaa\n  credential: {type: client_secret}\n  vaults: [https://abc.vault.azure.net]\n", i),
				Credentials: map[string]secret.Value{"azure.credential.client_secret": secret.NewValue([]byte("pl4nted-Secret"))},
			}); err != nil {
				t.Fatal(err)
			}
		}
		for _, step := range []string{"add-key", "use-key"} {
			if code, _, stderr := command(t, "seal", step, db.keyFile); code != exitOK {
				t.Fatalf("%s: %d %s", step, code, stderr)
			}
		}
		drop := []string{"seal", "drop-key", "--config", db.configFile, db.keyFile}
		code, _, stderr := command(t, drop...)
		if code != exitFailure || !strings.Contains(stderr, "i0/azure.credential.client_secret") || !strings.Contains(stderr, "and 2 more") || strings.Contains(stderr, "pl4nted") {
			t.Errorf("while credentials are sealed with the key: %d %s", code, stderr)
		}
		if keys, err := seal.List(db.keyFile); err != nil || len(keys) != 2 {
			t.Fatalf("the key is gone: %v, %v", keys, err)
		}
		if err := db.keys.Reload(); err != nil {
			t.Fatal(err)
		}
		s.Reload()
		if code, _, stderr := command(t, drop...); code != exitOK {
			t.Errorf("when nothing is sealed with the key: %d %s", code, stderr)
		}
		if keys, err := seal.List(db.keyFile); err != nil || len(keys) != 1 {
			t.Errorf("%v, %v", keys, err)
		}
	})
}

// TestKeyDropCannotLook refuses where nobody can tell whether the keys are in use.
func TestKeyDropCannotLook(t *testing.T) {
	env := newEnvironment(t)
	keyFile := filepath.Join(env.Dir, "registry.key")
	if err := seal.Create(keyFile); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := command(t, "seal", "drop-key", "--config", env.ConfigFile, keyFile)
	if code != exitUsage || !strings.Contains(stderr, "in files") {
		t.Errorf("%d %s", code, stderr)
	}
}
