//go:build unix

package sqlstore

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/registry/seal"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore/pgtest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	planted    = "pl4nted-Secret"
	credential = "azure.credential.client_secret"
)

func secrets(v string) map[string]secret.Value {
	return map[string]secret.Value{credential: secret.NewValue([]byte(v))}
}

// checkHidden fails the test if data contains the planted credential in any usual
// encoding.
func checkHidden(t *testing.T, where string, data []byte) {
	t.Helper()
	lower := bytes.ToLower(data)
	std := base64.StdEncoding.EncodeToString([]byte(planted))
	for _, form := range []string{planted, hex.EncodeToString([]byte(planted)), std[:len(std)-4]} {
		if bytes.Contains(lower, []byte(strings.ToLower(form))) {
			t.Errorf("%s contains the credential", where)
		}
	}
}

// plant writes the credential in every way that a Store can: created, replaced, kept,
// sealed again, replaced by another one, deleted.
func plant(t *testing.T, s *Store, path string, keys *seal.Keys) {
	t.Helper()
	create(t, s, secretDocument("a"), planted)
	create(t, s, secretDocument("gone"), planted)
	update(t, s, secretDocument("a"), planted+"-2")
	update(t, s, secretDocument("a"))
	if err := s.Delete(t.Context(), "gone", ""); err != nil {
		t.Fatal(err)
	}
	changeKeys(t, path, keys, seal.Add, seal.Use)
	if n, err := s.Reseal(t.Context()); n != 1 || err != nil {
		t.Errorf("Reseal: %d, %v", n, err)
	}
	_, err := s.Create(t.Context(), registry.Change{Document: secretDocument("a"), Credentials: secrets(planted)})
	checkHidden(t, "an error", []byte(err.Error()))
	_, err = s.Create(t.Context(), registry.Change{Document: document("b", "abc", "dns:a.example.org"), Credentials: secrets(planted)})
	checkHidden(t, "an error", []byte(err.Error()))
}

func checkFilesHide(t *testing.T, dir string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		files++
		checkHidden(t, path, data)
		return err
	})
	if err != nil || files == 0 {
		t.Errorf("searched %d files: %v", files, err)
	}
}

func TestSQLiteFilesHideCredentials(t *testing.T) {
	dir := t.TempDir()
	path, keys := keyFile(t)
	var log bytes.Buffer
	s := openSQLite(t, filepath.Join(dir, "r.db"), Config{Kinds: kinds.All(), Sealer: keys, Logger: slog.New(slog.NewJSONHandler(&log, nil))})
	plant(t, s, path, keys)
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(filepath.Join(dir, "r.db"+suffix))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("r.db%s: %v, %v", suffix, info.Mode(), err)
		}
	}
	checkFilesHide(t, dir)
	checkHidden(t, "the log", log.Bytes())
	if log.Len() == 0 {
		t.Error("the log is empty")
	}
}

func TestPostgresHidesCredentials(t *testing.T) {
	server := pgtest.New(t)
	server.Query("postgres", "ALTER DATABASE postgres SET log_statement = 'all'")
	path, keys := keyFile(t)
	s := openPostgres(t, server.URL("postgres"), Config{Kinds: kinds.All(), Sealer: keys})
	plant(t, s, path, keys)
	dump := server.Dump("postgres")
	if !strings.Contains(dump, "COPY public.credentials") || !strings.Contains(dump, credential) {
		t.Fatalf("not a dump of the tables:\n%s", dump)
	}
	checkHidden(t, "the dump", []byte(dump))
	server.Query("postgres", "CHECKPOINT")
	checkFilesHide(t, filepath.Dir(server.Data())) // tables, write-ahead log and the server's own log
}

// TestMovedCredentialsDoNotOpen: write access to the database allows neither giving one
// integration another's credential nor restoring the credential of an old name.
func TestMovedCredentialsDoNotOpen(t *testing.T) {
	keys := newKeys(t)
	s := openSQLite(t, filepath.Join(t.TempDir(), "r.db"), Config{Kinds: kinds.All(), Sealer: keys})
	create(t, s, secretDocument("rich"), planted)
	create(t, s, secretDocument("poor"), "other")
	execute(t, s,
		`UPDATE credentials SET sealed = (SELECT sealed FROM credentials WHERE integration_id = 'rich') WHERE integration_id = 'poor'`,
		`UPDATE integrations SET etag = 'x' WHERE id = 'poor'`,
		`UPDATE registry_state SET stamp = 'x'`,
	)
	s.Reload()
	in := get(t, s, "poor")
	if b, err := in.Credentials[credential](t.Context()); !errors.Is(err, seal.ErrCannotOpen) {
		t.Errorf("it opens to %d bytes, %v", len(b), err)
	}
}

func TestSQLiteFileIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "r.db")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSQLite(t.Context(), file, Config{Kinds: kinds.All()}); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file that all users can read: %v", err)
	}
	if _, err := OpenSQLite(t.Context(), t.TempDir(), Config{Kinds: kinds.All()}); err == nil {
		t.Error("a directory was opened")
	}
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, bytes.Repeat([]byte("no database"), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSQLite(t.Context(), other, Config{Kinds: kinds.All()}); err == nil {
		t.Error("another file was opened")
	}
}

func TestWithoutAKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "r.db")
	with := openSQLite(t, file, Config{Kinds: kinds.All(), Sealer: newKeys(t)})
	create(t, with, secretDocument("a"), planted)
	for name, s := range map[string]*Store{"none": openSQLite(t, file, Config{Kinds: kinds.All()}), "another": openSQLite(t, file, Config{Kinds: kinds.All(), Sealer: newKeys(t)})} {
		in := get(t, s, "a")
		if _, err := in.Credentials[credential](t.Context()); !errors.Is(err, seal.ErrCannotOpen) {
			t.Errorf("%s key: %v", name, err)
		}
		if n, err := s.Reseal(t.Context()); n != 0 || err != nil {
			t.Errorf("%s key: Reseal: %d, %v", name, n, err)
		}
	}
	none := openSQLite(t, file, Config{Kinds: kinds.All()})
	_, err := none.Update(t.Context(), registry.Change{Document: secretDocument("a"), Credentials: secrets(planted)})
	if err == nil || !strings.Contains(err.Error(), "registry.seal.key_file") {
		t.Errorf("Update without a key: %v", err)
	}
}
