//go:build unix

package sqlstore

import (
	"crypto/rand"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore/pgtest"
)

// opener opens a database. The Store closes when the test ends.
type opener func(Config) (*Store, error)

// must fails the test if the database cannot be opened.
func (open opener) must(t *testing.T, c Config) *Store {
	t.Helper()
	s, err := open(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// backends runs a test on an empty database of each kind.
func backends(t *testing.T, test func(t *testing.T, open opener)) {
	t.Run("sqlite", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "r.db")
		test(t, func(c Config) (*Store, error) { return closing(t)(OpenSQLite(t.Context(), file, c)) })
	})
	t.Run("postgres", func(t *testing.T) {
		url := pgtest.New(t).URL("postgres")
		test(t, func(c Config) (*Store, error) { return closing(t)(OpenPostgres(t.Context(), Postgres{URL: url}, c)) })
	})
}

func closing(t *testing.T) func(*Store, error) (*Store, error) {
	return func(s *Store, err error) (*Store, error) {
		if err == nil {
			t.Cleanup(func() { _ = s.Close() })
		}
		return s, err
	}
}

func version(t *testing.T, s *Store) (v int) {
	t.Helper()
	if err := s.db.QueryRowContext(t.Context(), `SELECT max(version) FROM schema_migrations`).Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// checkWorks reads and writes integrations through one Store and checks them through the
// other.
func checkWorks(t *testing.T, s, other *Store) {
	t.Helper()
	id := "works-" + strings.ToLower(rand.Text())
	r := create(t, s, document(id, "abc", "dns:a.example.org"))
	if _, err := s.Update(t.Context(), registry.Change{Document: document(id, "xyz", "dns:a.example.org"), ETag: r.ETag}); err != nil {
		t.Fatal(err)
	}
	other.Reload()
	if in, err := other.Get(id); err != nil || in.Settings.StoreNames()[0] != "https://xyz.vault.azure.net" {
		t.Errorf("%s on the other side: %v", id, err)
	}
	if _, err := other.Record(t.Context(), id); err != nil {
		t.Errorf("Record: %v", err)
	}
}

// TestReleasesSideBySide: during a rolling upgrade, releases of one schema version and the
// next work on one database; after a rollback, the older one works alone.
func TestReleasesSideBySide(t *testing.T) {
	backends(t, func(t *testing.T, open opener) {
		old := open.must(t, Config{Kinds: kinds.All(), program: latest() - 1})
		if v := version(t, old); v != latest()-1 {
			t.Fatalf("the older release created version %d", v)
		}
		checkWorks(t, old, old)
		now := open.must(t, Config{Kinds: kinds.All()})
		if v := version(t, now); v != latest() {
			t.Fatalf("the newer release created version %d", v)
		}
		checkWorks(t, old, now)
		checkWorks(t, now, old)
		use := registry.Usage{Integration: now.List()[0].ID, Principal: "dns:a.example.org", FirstAt: time.Unix(1, 0), LastAt: time.Unix(2, 0)}
		if err := now.MergeUsage(t.Context(), []registry.Usage{use}); err != nil {
			t.Fatal(err)
		}
		// The older release also deletes the rows of tables that it does not know.
		if err := old.Delete(t.Context(), use.Integration, ""); err != nil {
			t.Errorf("Delete by the older program: %v", err)
		}
		again := open.must(t, Config{Kinds: kinds.All(), program: latest() - 1})
		if v := version(t, again); v != latest() {
			t.Errorf("the rollback changed the schema to %d", v)
		}
		checkWorks(t, again, now)
	})
}

// TestUIDsOfOlderReleases: integrations that exist before the migration, or that an older
// release creates after it, have different UIDs, which do not change.
func TestUIDsOfOlderReleases(t *testing.T) {
	backends(t, func(t *testing.T, open opener) {
		old := open.must(t, Config{Kinds: kinds.All(), program: uidVersion - 1})
		create(t, old, document("a", "abc", "dns:a.example.org"))
		create(t, old, document("b", "abc", "dns:a.example.org"))
		now := open.must(t, Config{Kinds: kinds.All()})
		create(t, old, document("c", "abc", "dns:a.example.org"))
		create(t, old, document("d", "abc", "dns:a.example.org"))
		create(t, now, document("e", "abc", "dns:a.example.org"))
		update(t, old, document("a", "xyz", "dns:a.example.org"))
		now.Reload()
		seen := make(map[string]bool)
		for _, in := range now.List() {
			if len(in.UID) != 36 || in.UID[14] != '4' || !strings.ContainsRune("89ab", rune(in.UID[19])) || in.UID != strings.ToLower(in.UID) || seen[in.UID] {
				t.Errorf("%s has the UID %q", in.ID, in.UID)
			}
			seen[in.UID] = true
			if r, err := now.Record(t.Context(), in.ID); err != nil || r.UID != in.UID {
				t.Errorf("%s: Record has the UID %q, Get %q; %v", in.ID, r.UID, in.UID, err)
			}
		}
		if len(seen) != 5 {
			t.Errorf("%d integrations", len(seen))
		}
	})
}

// TestNextReleasesSchema: this release keeps working during and after the migrations that
// the rules of migration allow to the next release: columns with defaults, tables,
// indexes.
func TestNextReleasesSchema(t *testing.T) {
	backends(t, func(t *testing.T, open opener) {
		s := open.must(t, Config{Kinds: kinds.All()})
		checkWorks(t, s, s)
		execute(t, s,
			`ALTER TABLE integrations ADD COLUMN labels TEXT NOT NULL DEFAULT ''`,
			`ALTER TABLE registry_state ADD COLUMN extra INTEGER NOT NULL DEFAULT 0`,
			`ALTER TABLE credentials ADD COLUMN extra TEXT`,
			`ALTER TABLE integration_usage ADD COLUMN calls INTEGER NOT NULL DEFAULT 0`,
			`CREATE TABLE labels (integration_id TEXT NOT NULL REFERENCES integrations (id) ON DELETE CASCADE)`,
			`CREATE INDEX integrations_updated ON integrations (updated_at)`,
			fmt.Sprintf(`INSERT INTO schema_migrations (version, oldest) VALUES (%d, %d)`, latest()+1, latest()),
		)
		checkWorks(t, s, s) // with statements that it prepared before
		again := open.must(t, Config{Kinds: kinds.All()})
		checkWorks(t, again, s)
		use := registry.Usage{Integration: again.List()[0].ID, Principal: "dns:a.example.org", FirstAt: time.Unix(1, 0), LastAt: time.Unix(2, 0)}
		if err := again.MergeUsage(t.Context(), []registry.Usage{use}); err != nil {
			t.Error(err)
		}
		if v := version(t, again); v != latest()+1 {
			t.Errorf("the newer schema became %d", v)
		}
		// The release after the next may require something that this one does not do.
		execute(t, s, fmt.Sprintf(`INSERT INTO schema_migrations (version, oldest) VALUES (%d, %d)`, latest()+2, latest()+1))
		if _, err := open(Config{Kinds: kinds.All()}); err == nil || !strings.Contains(err.Error(), "too new for this release") {
			t.Errorf("a schema that is too new: %v", err)
		}
	})
}
