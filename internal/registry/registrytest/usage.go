package registrytest

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/registry"
)

// noon is the start of the tests' usage, in the resolution of the store.
var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func use(connector, key, version string, first, last int) registry.Usage {
	return registry.Usage{
		Integration: "a", Principal: worker, Connector: connector,
		Store: "https://abc.vault.azure.net", Secret: "db", Key: key, Version: version,
		FirstAt: noon.Add(time.Duration(first) * time.Minute), LastAt: noon.Add(time.Duration(last) * time.Minute),
	}
}

func usageOf(t *testing.T, s registry.Store) registry.UsageStore {
	t.Helper()
	u, ok := s.(registry.UsageStore)
	if !ok {
		t.Fatalf("%T keeps no usage", s)
	}
	return u
}

// checkUsage compares the usage of the integration a, without Versions.
func checkUsage(t *testing.T, u registry.UsageStore, since time.Time, limit int, want ...registry.Usage) {
	t.Helper()
	got, err := u.Usage(t.Context(), "a", since, limit)
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		got[i].Versions = nil
	}
	if len(got)+len(want) > 0 {
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("usage since %v (-want +got):\n%s", since, diff)
		}
	}
}

func testUsage(t *testing.T, b *Backend) {
	s := b.Open(t, Settings{})
	u := usageOf(t, s)
	checkUsage(t, u, time.Time{}, 0)
	for _, id := range []string{"a", "b", "never"} {
		mustCreate(t, s, registry.Change{Document: []byte(document(id, "abc"))})
	}
	merge := func(batch ...registry.Usage) {
		t.Helper()
		if err := u.MergeUsage(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	merge()
	merge(use("sink", "password", "v2", 10, 20), use("", "", "v1", 0, 5))
	checkUsage(t, u, time.Time{}, 0, use("sink", "password", "v2", 10, 20), use("", "", "v1", 0, 5))
	// An older report arrives late, and one batch contains two reports of the same use.
	merge(use("sink", "password", "v1", 1, 2), use("sink", "password", "v3", 30, 30), use("sink", "password", "v2", 25, 25))
	checkUsage(t, u, time.Time{}, 0, use("sink", "password", "v3", 1, 30), use("", "", "v1", 0, 5))
	checkUsage(t, u, time.Time{}, 1, use("sink", "password", "v3", 1, 30))
	checkUsage(t, u, noon.Add(30*time.Minute), 0, use("sink", "password", "v3", 1, 30))
	checkUsage(t, u, noon.Add(31*time.Minute), 0)
	// The same read by another grant is another entry.
	byGrant := use("sink", "password", "v3", 3, 29)
	byGrant.GrantID = "team-a"
	merge(byGrant)
	checkUsage(t, u, time.Time{}, 2, use("sink", "password", "v3", 1, 30), byGrant)
	other, gone := use("x", "", "v1", 7, 8), use("x", "", "v1", 7, 8)
	other.Integration, gone.Integration = "b", "gone"
	merge(other, gone)
	last, err := u.LastUsed(t.Context())
	want := map[string]time.Time{"a": noon.Add(30 * time.Minute), "b": noon.Add(8 * time.Minute)}
	if diff := cmp.Diff(want, last); err != nil || diff != "" {
		t.Errorf("LastUsed: %v\n%s", err, diff)
	}
	// Connector names may be arbitrary bytes of any length.
	odd := use("a\x00b\xff"+string(make([]byte, 10_000)), "", "v1", 40, 40)
	merge(odd)
	if got, err := u.Usage(t.Context(), "a", noon.Add(40*time.Minute), 0); err != nil || len(got) != 1 || len(got[0].Connector) > 10_000 {
		t.Errorf("usage of an odd connector: %d entries, %v", len(got), err)
	}
}

func testUsageGoesAlong(t *testing.T, b *Backend) {
	s := b.Open(t, Settings{})
	u := usageOf(t, s)
	doc := registry.Change{Document: []byte(document("a", "abc"))}
	deleted := mustCreate(t, s, doc)
	if err := u.MergeUsage(t.Context(), []registry.Usage{use("x", "", "v1", 0, 1)}); err != nil {
		t.Fatal(err)
	}
	mustUpdate(t, s, doc)
	checkUsage(t, u, time.Time{}, 0, use("x", "", "v1", 0, 1))
	if err := s.Delete(t.Context(), "a", ""); err != nil {
		t.Fatal(err)
	}
	again := mustCreate(t, s, doc)
	checkUsage(t, u, time.Time{}, 0)
	// Usage of the deleted integration may arrive late, even together with that of its successor.
	late, own := use("x", "", "v1", 0, 9), use("x", "", "v2", 7, 8)
	late.UID, own.UID = deleted.UID, again.UID
	if err := u.MergeUsage(t.Context(), []registry.Usage{late}); err != nil {
		t.Fatal(err)
	}
	checkUsage(t, u, time.Time{}, 0)
	if err := u.MergeUsage(t.Context(), []registry.Usage{late, own, late}); err != nil {
		t.Fatal(err)
	}
	checkUsage(t, u, time.Time{}, 0, use("x", "", "v2", 7, 8))
}

// Replicas report the same callers concurrently.
func testUsageFromReplicas(t *testing.T, b *Backend) {
	stores := []registry.Store{b.Open(t, Settings{}), b.Open(t, Settings{}), b.Open(t, Settings{})}
	mustCreate(t, stores[0], registry.Change{Document: []byte(document("a", "abc"))})
	const entries, rounds = 150, 4
	var replicas sync.WaitGroup
	for n, s := range stores {
		replicas.Go(func() {
			for round := range rounds {
				var batch []registry.Usage
				for i := range entries {
					at := round*len(stores) + n
					batch = append(batch, use(fmt.Sprintf("c%03d", (i+n*37)%entries), "", fmt.Sprintf("v%d", at), at, at))
				}
				if err := usageOf(t, s).MergeUsage(t.Context(), batch); err != nil {
					t.Errorf("MergeUsage: %v", err)
				}
			}
		})
	}
	replicas.Wait()
	got, err := usageOf(t, stores[1]).Usage(t.Context(), "a", time.Time{}, 0)
	if err != nil || len(got) != entries {
		t.Fatalf("%d entries, %v", len(got), err)
	}
	latest := rounds*len(stores) - 1
	for _, u := range got {
		want := use(u.Connector, "", fmt.Sprintf("v%d", latest), 0, latest)
		for n := range registry.MaxVersions {
			at := noon.Add(time.Duration(latest-n) * time.Minute)
			want.Versions = append(want.Versions, registry.VersionUse{Version: fmt.Sprintf("v%d", latest-n), FirstAt: at, LastAt: at})
		}
		if diff := cmp.Diff(want, u); diff != "" {
			t.Fatal(diff)
		}
	}
}
