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

// checkSealedFault fails the test unless exactly these integrations are at fault
// for a credential that does not open, and are served all the same.
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

// TestCredentialThatNoKeyOpens is a fault of its integration: at the start, when
// another replica seals with a key that this one does not have, and until the key
// file has it.
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

		// Another replica's file is a copy that has not got the newest key yet.
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

// TestKeyIsTakenAway from a broker that runs: SIGHUP finds what does not open any
// more, without any change in the database.
func TestKeyIsTakenAway(t *testing.T) {
	path, keys := keyFile(t)
	s := openSQLite(t, filepath.Join(t.TempDir(), "r.db"), Config{Kinds: kinds.All(), Sealer: keys})
	create(t, s, secretDocument("a"), planted)
	changeKeys(t, path, keys, os.Remove, seal.Create)
	s.Reload()
	checkSealedFault(t, s, faultNoKey, "a")
}

// TestRevokeWithoutKey: a credential that does not open keeps nobody from taking a
// grant away.
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
