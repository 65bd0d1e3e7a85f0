package sqlstore

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/registry/seal"
)

// checkSealedFault fails the test unless exactly these integrations have the fault of a
// credential that does not open, and are still served.
func checkSealedFault(t *testing.T, s *Store, text string, want ...string) {
	t.Helper()
	faults := s.Faults()
	if len(faults) != len(want) {
		t.Fatalf("Faults: %+v, want %v", faults, want)
	}
	for i, id := range want {
		ff := faults[i]
		if ff.File != id || ff.Serving != id || !strings.Contains(ff.Faults.Error(), text) || ff.Faults[0].Path != credential {
			t.Errorf("fault: %+v", ff)
		}
		if in, err := s.Get(id); err != nil || in.Credentials[credential] == nil {
			t.Errorf("Get(%q): %v", id, err)
		}
		r, err := s.Record(t.Context(), id)
		if err != nil || r.Integration == nil || !strings.Contains(r.Faults.Error(), text) {
			t.Errorf("Record(%q): %+v, %v", id, r.Faults, err)
		}
	}
}

// TestCredentialThatNoKeyOpens: a credential that no key opens is a fault of its
// integration at start, and after another replica has sealed it with a key that this one
// does not have, until the key file has that key.
func TestCredentialThatNoKeyOpens(t *testing.T) {
	backends(t, func(t *testing.T, open opener) {
		path, keys := keyFile(t)
		s := open.must(t, Config{Kinds: kinds.All(), Sealer: keys})
		create(t, s, secretDocument("a"), planted)
		create(t, s, document("b", "abc", "dns:a.example.org"))
		checkSealedFault(t, s, "")

		keyless := open.must(t, Config{Kinds: kinds.All()})
		checkSealedFault(t, keyless, faultNoKeyFile, "a")
		foreign := open.must(t, Config{Kinds: kinds.All(), Sealer: newKeys(t)})
		checkSealedFault(t, foreign, faultNoKey, "a")

		// This replica's copy of the key file lacks the newest key.
		old, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(t.TempDir(), "copy.key")
		if err := os.WriteFile(copied, old, 0o600); err != nil {
			t.Fatal(err)
		}
		behindKeys, err := seal.Open(copied)
		if err != nil {
			t.Fatal(err)
		}
		behind := open.must(t, Config{Kinds: kinds.All(), Sealer: behindKeys})
		checkSealedFault(t, behind, "")
		changeKeys(t, path, keys, seal.Add, seal.Use)
		s.Reload()
		behind.Reload()
		checkSealedFault(t, behind, faultNoKey, "a")
		if err := os.Rename(path, copied); err != nil {
			t.Fatal(err)
		}
		if err := behindKeys.Reload(); err != nil {
			t.Fatal(err)
		}
		behind.Reload()
		checkSealedFault(t, behind, "")
	})
}

// TestKeyIsTakenAway: after a key was removed, SIGHUP finds the credentials that no longer
// open, without any change in the database.
func TestKeyIsTakenAway(t *testing.T) {
	path, keys := keyFile(t)
	s := openSQLite(t, filepath.Join(t.TempDir(), "r.db"), Config{Kinds: kinds.All(), Sealer: keys})
	create(t, s, secretDocument("a"), planted)
	changeKeys(t, path, keys, os.Remove, seal.Create)
	s.Reload()
	checkSealedFault(t, s, faultNoKey, "a")
}

// TestRevokeWithoutKey: a grant can be revoked although a credential does not open.
func TestRevokeWithoutKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "r.db")
	s := openSQLite(t, file, Config{Kinds: kinds.All(), Sealer: newKeys(t)})
	doc := string(secretDocument("a")) + "grants: [{principals: ['dns:w.example.org']}]\n"
	create(t, s, []byte(doc), planted)
	foreign := openSQLite(t, file, Config{Kinds: kinds.All(), Sealer: newKeys(t)})
	if may, err := allowed(foreign, "a", "dns:w.example.org"); err != nil || !may {
		t.Fatalf("before: %v, %v", may, err)
	}
	update(t, foreign, secretDocument("a"))
	if may, err := allowed(foreign, "a", "dns:w.example.org"); may || errors.Is(err, registry.ErrNotFound) {
		t.Errorf("after the revocation: %v, %v", may, err)
	}
	checkSealedFault(t, foreign, faultNoKey, "a")
}
