package sqlstore

import (
	"database/sql"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/registry/registrytest"
)

// TestUsageFileVersions: the database of usage keeps versions and reads of stores as the databases of
// integrations do.
func TestUsageFileVersions(t *testing.T) {
	t.Run("UsageVersions", func(t *testing.T) { registrytest.UsageVersions(t, newUsageWorld(t).open()) })
	t.Run("UsagePages", func(t *testing.T) { registrytest.UsagePages(t, newUsageWorld(t).open()) })
	t.Run("Seen", func(t *testing.T) { registrytest.Seen(t, newUsageWorld(t).open()) })
}

// TestUsageFileOfOlderRelease: the database of an older release gets what it lacks, and keeps
// its usage. The older release can still use it.
func TestUsageFileOfOlderRelease(t *testing.T) {
	w := newUsageWorld(t)
	if err := makeFile(w.path); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", sqliteDSN(w.path))
	if err != nil {
		t.Fatal(err)
	}
	const insert = `INSERT INTO integration_usage (id, integration_id, principal, connector, store, secret, json_key, grant_id, version, first_at, last_at) VALUES `
	for _, query := range []string{
		usageTables,
		`INSERT INTO usage_state (id, since) VALUES (1, 1)`,
		`INSERT INTO integrations (id) VALUES ('a')`,
		insert + `('1', 'a', 'dns:a', '', 's', 'x', '', 'g', 'v1', 1000000, 2000000)`,
	} {
		if _, err := db.ExecContext(t.Context(), query); err != nil {
			t.Fatal(err)
		}
	}
	f := w.open()
	versions := func(want ...registry.VersionUse) {
		t.Helper()
		got, err := f.Usage(t.Context(), "a", time.Time{}, 1)
		if err != nil || len(got) != 1 {
			t.Fatalf("%+v, %v", got, err)
		}
		if diff := cmp.Diff(want, got[0].Versions); diff != "" {
			t.Error(diff)
		}
	}
	versions(registry.VersionUse{Version: "v1", LastAt: time.Unix(2, 0).UTC()})
	if _, err := db.ExecContext(t.Context(), insert+`('2', 'a', 'dns:b', '', 's', 'x', '', 'g', 'v2', 3000000, 4000000)`); err != nil {
		t.Errorf("the older release cannot write: %v", err)
	}
	versions(registry.VersionUse{Version: "v2", LastAt: time.Unix(4, 0).UTC()})
	if err := f.MergeSeen(t.Context(), []registry.Seen{{Integration: "a", Store: "s", Secret: "x", Version: "v", ReadAt: w.now}}); err != nil {
		t.Error(err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	w.open() // it is not extended twice
}

// TestVersionsBesideOlderRelease: what an older replica writes is merged with the versions
// that this release keeps.
func TestVersionsBesideOlderRelease(t *testing.T) {
	backends(t, func(t *testing.T, open opener) {
		old := open.must(t, Config{Kinds: kinds.All(), program: usageVersionsVersion - 1})
		create(t, old, document("a", "abc", "dns:a.example.org"))
		at := func(minutes int) time.Time { return time.Date(2027, 1, 10, 12, minutes, 0, 0, time.UTC) }
		merge := func(s *Store, version string, first, last int, requestID string) {
			t.Helper()
			u := registry.Usage{Integration: "a", Principal: "dns:a.example.org", Store: "s", Secret: "x", Version: version, FirstAt: at(first), LastAt: at(last)}
			if requestID != "" {
				u.Versions = []registry.VersionUse{{Version: version, FirstAt: at(first), LastAt: at(last), RequestID: requestID, Sequence: 7, Replica: "r"}}
			}
			if err := s.MergeUsage(t.Context(), []registry.Usage{u}); err != nil {
				t.Fatal(err)
			}
		}
		merge(old, "v1", 0, 1, "")
		now := open.must(t, Config{Kinds: kinds.All()})
		check := func(s *Store, first int, want ...registry.VersionUse) {
			t.Helper()
			got, err := s.Usage(t.Context(), "a", time.Time{}, 0)
			if err != nil || len(got) != 1 {
				t.Fatalf("%+v, %v", got, err)
			}
			if diff := cmp.Diff(want, got[0].Versions); diff != "" || !got[0].FirstAt.Equal(at(first)) || got[0].Version != want[0].Version {
				t.Errorf("%+v\n%s", got[0], diff)
			}
		}
		check(now, 0, registry.VersionUse{Version: "v1", LastAt: at(1)})
		merge(now, "v1", 2, 3, "late") // not its first read, which the older release has made
		check(now, 0, registry.VersionUse{Version: "v1", LastAt: at(3)})
		merge(now, "v2", 5, 6, "first")
		v2 := registry.VersionUse{Version: "v2", FirstAt: at(5), LastAt: at(6), RequestID: "first", Sequence: 7, Replica: "r"}
		check(now, 0, v2, registry.VersionUse{Version: "v1", LastAt: at(3)})
		merge(old, "v1", 7, 8, "")
		check(now, 0, registry.VersionUse{Version: "v1", LastAt: at(8)}, v2)
		merge(old, "v3", 9, 10, "")
		check(now, 0, registry.VersionUse{Version: "v3", LastAt: at(10)}, v2, registry.VersionUse{Version: "v1", LastAt: at(3)})
		if err := old.MergeSeen(t.Context(), []registry.Seen{{Integration: "a"}}); err != nil {
			t.Error(err)
		}
		if s, err := old.Seen(t.Context(), nil); err != nil || len(s) != 0 {
			t.Errorf("%+v, %v", s, err)
		}
		if u, err := old.UsagePage(t.Context(), registry.UsageQuery{Integrations: []string{"a"}, Limit: 9}); err != nil || len(u) != 1 {
			t.Errorf("%+v, %v", u, err)
		}
	})
}
