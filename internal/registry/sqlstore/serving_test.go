//go:build unix

package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/registry/seal"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore/pgtest"
)

// overwrite changes a row as a newer release or a manual edit would.
func overwrite(t *testing.T, s *Store, id, spec string) {
	t.Helper()
	execute(t, s,
		fmt.Sprintf(`UPDATE integrations SET spec = '%s', etag = etag || 'x' WHERE id = '%s'`, strings.ReplaceAll(spec, "'", "''"), id),
		`UPDATE registry_state SET stamp = stamp || 'x'`,
	)
	s.Reload()
}

// TestUnreadableChangeIsNotServed: a document that this release cannot read may have
// revoked a grant, so the integration is no longer served. The others are.
func TestUnreadableChangeIsNotServed(t *testing.T) {
	s := openSQLite(t, filepath.Join(t.TempDir(), "r.db"), Config{Kinds: kinds.All()})
	good := string(document("a", "abc", "dns:a.example.org"))
	create(t, s, []byte(good))
	create(t, s, document("b", "abc", "dns:a.example.org"))
	overwrite(t, s, "a", good+"a_later_setting: 1\n")
	if _, err := s.Get("a"); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("Get: %v", err)
	}
	if _, err := s.Get("b"); err != nil {
		t.Errorf("Get of another: %v", err)
	}
	if f := s.Faults(); len(f) != 1 || f[0].File != "a" || f[0].Serving != "" || !strings.Contains(f[0].Faults.Error(), "a_later_setting") {
		t.Errorf("Faults: %+v", f)
	}
	r, err := s.Record(t.Context(), "a")
	if err != nil || r.Integration != nil || len(r.Faults) == 0 || len(r.Document) == 0 {
		t.Errorf("Record: %+v, %v", r, err)
	}
	if _, err := s.Update(t.Context(), registry.Change{Document: []byte(good), ETag: r.ETag}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get("a"); err != nil || len(s.Faults()) != 0 {
		t.Errorf("after mending: %v, %v", err, s.Faults())
	}
}

// TestNamedFilesAreFollowed: files that documents refer to are watched as in a dirstore.
// While one is missing, the same document continues to be served.
func TestNamedFilesAreFollowed(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "client-secret")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	var told int
	s := openSQLite(t, filepath.Join(dir, "r.db"), Config{Kinds: kinds.All(), Files: []string{dir}, OnChange: func(_, changed []*integration.Integration) { told += len(changed) }})
	doc := strings.Replace(string(secretDocument("a")), "{type: client_secret}", "{type: client_secret, client_secret_file: "+file+"}", 1)
	create(t, s, []byte(doc))
	before := get(t, s, "a")
	s.Reload()
	if now, _ := s.Get("a"); now != before {
		t.Error("another integration without a change")
	}
	write("two")
	s.Reload()
	after, err := s.Get("a")
	if err != nil || after.Revision == before.Revision || told != 2 {
		t.Errorf("after a change of the file: %v, told %d times", err, told)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	s.Reload()
	if now, err := s.Get("a"); err != nil || now != after || len(s.Faults()) != 1 || s.Faults()[0].Serving != "a" {
		t.Errorf("while the file is away: %v, %+v", err, s.Faults())
	}
	write("two")
	s.Reload()
	if now, err := s.Get("a"); err != nil || now.Revision != after.Revision || len(s.Faults()) != 0 {
		t.Errorf("when the file is back: %v, %+v", err, s.Faults())
	}
}

// TestReloadSealsWithTheNewKey: on SIGHUP, credentials are sealed with the new key in the
// key file, and every replica reads them again.
func TestReloadSealsWithTheNewKey(t *testing.T) {
	path, keys := keyFile(t)
	file := filepath.Join(t.TempDir(), "r.db")
	s, other := openSQLite(t, file, Config{Kinds: kinds.All(), Sealer: keys}), openSQLite(t, file, Config{Kinds: kinds.All(), Sealer: keys})
	create(t, s, secretDocument("a"), planted)
	changeKeys(t, path, keys, seal.Add, seal.Use)
	s.Reload()
	s.Reload()
	changeKeys(t, path, keys, seal.Drop)
	other.Reload()
	for name, s := range map[string]*Store{"this": s, "the other": other} {
		in := get(t, s, "a")
		if b, err := in.Credentials[credential](t.Context()); err != nil || string(b) != planted {
			t.Errorf("%s Store, without the old key: %d bytes, %v", name, len(b), err)
		}
	}
}

// TestPostgresPassword: a role with a password and its own database is sufficient, and the
// password may change while the broker runs.
func TestPostgresPassword(t *testing.T) {
	server := pgtest.New(t)
	server.Query("postgres", "CREATE ROLE broker LOGIN PASSWORD 'first-pl4nted'")
	server.Query("postgres", "CREATE DATABASE secretbroker OWNER broker")
	hba := filepath.Join(server.Data(), "pg_hba.conf")
	text, err := os.ReadFile(hba)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(hba, append([]byte("host all broker 127.0.0.1/32 scram-sha-256\n"), text...), 0o600); err != nil {
		t.Fatal(err)
	}
	server.Query("postgres", "SELECT pg_reload_conf()")
	password := filepath.Join(t.TempDir(), "password")
	set := func(text string) {
		t.Helper()
		if err := os.WriteFile(password, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := Postgres{URL: "postgres://broker@" + server.Addr() + "/secretbroker?sslmode=disable", PasswordFile: password}
	set("wrong-pl4nted")
	if _, err := OpenPostgres(t.Context(), p, Config{Kinds: kinds.All()}); err == nil || strings.Contains(err.Error(), "pl4nted") {
		t.Fatalf("with a wrong password: %v", err)
	}
	set("first-pl4nted")
	s, err := OpenPostgres(t.Context(), p, Config{Kinds: kinds.All(), PollInterval: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	running(t, s)
	create(t, s, document("a", "abc", "dns:a.example.org"))
	server.Query("postgres", "ALTER ROLE broker PASSWORD 'second-pl4nted'")
	server.Query("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'broker'")
	await(t, "the old password is rejected", func() bool { return s.Status().Problem != "" })
	if problem := s.Status().Problem; strings.Contains(problem, "pl4nted") {
		t.Errorf("the problem contains the password: %s", problem)
	}
	set("second-pl4nted")
	await(t, "the new password is accepted", func() bool { return s.Status().Problem == "" })
}

// TestPostgresStartsLater: a broker may start before its database, and gives up when its
// context ends.
func TestPostgresStartsLater(t *testing.T) {
	server := pgtest.New(t)
	server.Kill()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := OpenPostgres(ctx, Postgres{URL: server.URL("postgres")}, Config{Kinds: kinds.All()}); err == nil || !strings.Contains(err.Error(), "cannot be reached") {
		t.Errorf("without a server: %v", err)
	}
	opened := opening(server.URL("postgres"), Config{Kinds: kinds.All()})
	server.Start()
	select {
	case err := <-opened:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("the broker did not notice the server's start")
	}
	for name, p := range map[string]Postgres{
		"no such database": {URL: server.URL("none")},
		"no password file": {URL: server.URL("postgres"), PasswordFile: filepath.Join(t.TempDir(), "none")},
		"a bad URL":        {URL: "postgres://db.example.org/x?sslmode=disable"},
	} {
		if _, err := OpenPostgres(t.Context(), p, Config{Kinds: kinds.All()}); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}
