package registrytest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/registry"
)

// createABC opens a Store with the integrations a, b and c.
func createABC(t *testing.T, b *Backend) registry.UsageStore {
	t.Helper()
	s := b.Open(t, Settings{})
	for _, id := range []string{"a", "b", "c"} {
		mustCreate(t, s, registry.Change{Document: []byte(document(id, "abc"))})
	}
	return usageOf(t, s)
}

func mergeUsage(t *testing.T, u registry.UsageStore, batch ...registry.Usage) {
	t.Helper()
	if err := u.MergeUsage(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
}

// versionUse is a version with the call that read it first. Times are in minutes since noon.
func versionUse(version string, first, last int) registry.VersionUse {
	at := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Minute) }
	sequence := uint64(first + 1000) //nolint:gosec // positive
	return registry.VersionUse{
		Version: version, FirstAt: at(first), LastAt: at(last), RequestID: "request-" + version, Sequence: sequence,
		Replica: "replica",
	}
}

// ofVersions is a report of a use of the integration a, of the given versions, the latest first.
func ofVersions(connector string, versions ...registry.VersionUse) registry.Usage {
	u := use(connector, "", versions[0].Version, 0, 0)
	u.LastAt = versions[0].LastAt
	u.FirstAt = slices.MinFunc(versions, func(a, b registry.VersionUse) int { return a.FirstAt.Compare(b.FirstAt) }).FirstAt
	u.Versions = versions
	return u
}

func checkVersions(t *testing.T, u registry.UsageStore, connector string, want ...registry.VersionUse) {
	t.Helper()
	got, err := u.Usage(t.Context(), "a", time.Time{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		if got[i].Connector == connector {
			if diff := gocmp.Diff(want, got[i].Versions); diff != "" || got[i].Version != want[0].Version {
				t.Errorf("%s, version %s (-want +got):\n%s", connector, got[i].Version, diff)
			}
			return
		}
	}
	t.Errorf("%s is missing", connector)
}

// UsageVersions tests the versions of uses of the integration a, which exists and is unused.
func UsageVersions(t *testing.T, u registry.UsageStore) {
	mergeUsage(t, u, ofVersions("x", versionUse("v1", 0, 5)))
	checkVersions(t, u, "x", versionUse("v1", 0, 5))
	// A report without a list says when the version was read again.
	mergeUsage(t, u, use("x", "", "v1", 6, 7))
	checkVersions(t, u, "x", versionUse("v1", 0, 7))
	mergeUsage(t, u, ofVersions("x", versionUse("v2", 10, 11), versionUse("v1", 8, 9)))
	checkVersions(t, u, "x", versionUse("v2", 10, 11), versionUse("v1", 0, 9))
	// Another replica reads the old version later, and its report arrives late.
	mergeUsage(t, u, ofVersions("x", versionUse("v1", 1, 20)))
	checkVersions(t, u, "x", versionUse("v1", 0, 20), versionUse("v2", 10, 11))
	mergeUsage(t, u, ofVersions("x", versionUse("v2", 9, 10)), ofVersions("x", versionUse("v0", -9, -8)))
	checkVersions(t, u, "x", versionUse("v1", 0, 20), versionUse("v2", 9, 11), versionUse("v0", -9, -8))
	// Only the last ones are kept.
	for i := range 9 {
		mergeUsage(t, u, ofVersions("x", versionUse(fmt.Sprint("w", i), 30+i, 30+i)))
	}
	checkVersions(t, u, "x", versionUse("w8", 38, 38), versionUse("w7", 37, 37), versionUse("w6", 36, 36), versionUse("w5", 35, 35))
	// Versions of any bytes.
	long := strings.Repeat("x", 10_000)
	mergeUsage(t, u, ofVersions("y", versionUse("a\x00b\xff", 2, 3), versionUse(long, 0, 1)))
	got, err := u.Usage(t.Context(), "a", time.Time{}, 0)
	i := slices.IndexFunc(got, func(u registry.Usage) bool { return u.Connector == "y" })
	if err != nil || i < 0 || len(got[i].Versions) != 2 || len(got[i].Versions[1].Version) > len(long) || got[i].Version != got[i].Versions[0].Version {
		t.Errorf("%+v, %v", got, err)
	}
	mergeUsage(t, u, got[i]) // what was read can be merged
	again, err := u.Usage(t.Context(), "a", time.Time{}, 0)
	if diff := gocmp.Diff(got, again); err != nil || diff != "" {
		t.Errorf("%v, %s", err, diff)
	}
}

// testVersionsFromReplicas: whichever replica writes first, what all of them have read is
// merged.
func testVersionsFromReplicas(t *testing.T, b *Backend) {
	stores := []registry.Store{b.Open(t, Settings{}), b.Open(t, Settings{})}
	mustCreate(t, stores[0], registry.Change{Document: []byte(document("a", "abc"))})
	const entries = 120
	connector := func(i int) string { return fmt.Sprintf("c%03d", i%entries) }
	var replicas sync.WaitGroup
	for n, s := range stores {
		replicas.Go(func() {
			for version := range 6 { // each version is read first by one replica, and last by the other
				first, last := 10*version, 10*version+5
				if version%2 != n {
					first, last = first+1, last+1
				}
				var batch []registry.Usage
				for i := range entries {
					v := versionUse(fmt.Sprint("v", version), first, last)
					v.Replica = fmt.Sprint("replica-", n)
					batch = append(batch, ofVersions(connector(i+n*37), v))
				}
				if err := usageOf(t, s).MergeUsage(t.Context(), batch); err != nil {
					t.Errorf("MergeUsage: %v", err)
				}
			}
		})
	}
	replicas.Wait()
	var want []registry.VersionUse
	for version := 5; version > 5-registry.MaxVersions; version-- {
		v := versionUse(fmt.Sprint("v", version), 10*version, 10*version+6)
		v.Replica = fmt.Sprint("replica-", version%2)
		want = append(want, v)
	}
	got, err := usageOf(t, stores[1]).Usage(t.Context(), "a", time.Time{}, 0)
	if err != nil || len(got) != entries {
		t.Fatalf("%d entries, %v", len(got), err)
	}
	for _, u := range got {
		if diff := gocmp.Diff(want, u.Versions); diff != "" {
			t.Fatalf("%s (-want +got):\n%s", u.Connector, diff)
		}
	}
}

// UsagePages tests UsagePage and CountVersions with the integrations a, b and c, which exist
// and are unused.
func UsagePages(t *testing.T, s registry.UsageStore) {
	var all []registry.Usage
	for _, id := range []string{"c", "a", "b"} {
		for i := range 7 {
			u := use(fmt.Sprint("c", i), "", fmt.Sprint("v", i%2), i, i)
			u.Integration = id
			if i%3 == 0 {
				u.Secret = "other"
			}
			all = append(all, u)
		}
	}
	folded := registry.Usage{Integration: "a", Principal: worker, FirstAt: noon, LastAt: noon}
	all = append(all, folded)
	mergeUsage(t, s, all...)
	of := func(secret string, ids ...string) (want []registry.Usage) {
		for _, u := range all {
			if slices.Contains(ids, u.Integration) && (secret == "" || u.Secret == secret) {
				want = append(want, u)
			}
		}
		slices.SortFunc(want, func(a, b registry.Usage) int {
			return cmp.Or(cmp.Compare(a.Integration, b.Integration), cmp.Compare(a.ID(), b.ID()))
		})
		return want
	}
	for _, tt := range []struct {
		secret string
		ids    []string
	}{{"", []string{"a", "b", "c"}}, {"db", []string{"a", "c"}}, {"other", []string{"b"}}, {"none", []string{"a"}}, {"", []string{"never"}}, {"", nil}} {
		for _, limit := range []int{1, 3, 100} {
			q := registry.UsageQuery{Integrations: tt.ids, Secret: tt.secret, Limit: limit}
			var got []registry.Usage
			for {
				page, err := s.UsagePage(t.Context(), q)
				if err != nil || len(page) > limit {
					t.Fatalf("%d entries, %v", len(page), err)
				}
				if len(page) == 0 {
					break
				}
				last := &page[len(page)-1]
				q.AfterIntegration, q.AfterID = last.Integration, last.ID()
				got = append(got, page...)
			}
			for i := range got {
				got[i].Versions = nil
			}
			if want := of(tt.secret, tt.ids...); len(got)+len(want) > 0 {
				if diff := gocmp.Diff(want, got); diff != "" {
					t.Errorf("%+v, pages of %d (-want +got):\n%s", tt, limit, diff)
				}
			}
		}
	}
	checkCounts(t, s, all)
}

func checkCounts(t *testing.T, s registry.UsageStore, all []registry.Usage) {
	t.Helper()
	want := make(map[registry.VersionCount]int)
	for _, u := range all {
		if u.Secret != "" {
			want[registry.VersionCount{Integration: u.Integration, Store: u.Store, Secret: u.Secret, Version: u.Version}]++
		}
	}
	counts, err := s.CountVersions(t.Context(), 100)
	got := make(map[registry.VersionCount]int)
	for _, c := range counts {
		n := c.Count
		c.Count = 0
		got[c] = n
	}
	if diff := gocmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if some, err := s.CountVersions(t.Context(), 2); err != nil || len(some) != 2 {
		t.Errorf("%d of at most 2, %v", len(some), err)
	}
}

func checkSeen(t *testing.T, u registry.UsageStore, secrets []string, want ...registry.Seen) {
	t.Helper()
	got, err := u.Seen(t.Context(), secrets)
	order := func(a, b registry.Seen) int {
		return cmp.Or(cmp.Compare(a.Integration, b.Integration), cmp.Compare(a.Secret, b.Secret))
	}
	slices.SortFunc(got, order)
	slices.SortFunc(want, order)
	if len(got)+len(want) == 0 && err == nil {
		return
	}
	if diff := gocmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func seen(id, name, version string, at int) registry.Seen {
	return registry.Seen{Integration: id, Store: "https://abc.vault.azure.net", Secret: name, Version: version, ReadAt: noon.Add(time.Duration(at) * time.Minute)}
}

// Seen tests MergeSeen and Seen with the integrations a and b, which exist.
func Seen(t *testing.T, u registry.UsageStore) {
	merge := func(batch ...registry.Seen) {
		t.Helper()
		if err := u.MergeSeen(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	long := strings.Repeat("ä", 300)
	merge()
	checkSeen(t, u, nil)
	merge(seen("a", "db", "v1", 1), seen("b", "db", "v2", 2), seen("a", long, "v3", 3), seen("a", long+"x", "v4", 3))
	checkSeen(t, u, []string{"db"}, seen("a", "db", "v1", 1), seen("b", "db", "v2", 2))
	checkSeen(t, u, []string{"never", long}, seen("a", long, "v3", 3))
	checkSeen(t, u, []string{})
	checkSeen(t, u, nil, seen("a", "db", "v1", 1), seen("b", "db", "v2", 2), seen("a", long, "v3", 3), seen("a", long+"x", "v4", 3))
	merge(seen("a", "db", "v0", 0)) // a slow read, or a late report
	checkSeen(t, u, []string{"db"}, seen("a", "db", "v1", 1), seen("b", "db", "v2", 2))
	merge(seen("a", "db", "v0", 4)) // the store has gone back
	checkSeen(t, u, []string{"db"}, seen("a", "db", "v0", 4), seen("b", "db", "v2", 2))
}

func testSeenGoesAlong(t *testing.T, b *Backend) {
	s := b.Open(t, Settings{})
	u := usageOf(t, s)
	doc := registry.Change{Document: []byte(document("a", "abc"))}
	deleted := mustCreate(t, s, doc)
	one := seen("a", "db", "v1", 1)
	one.UID = deleted.UID
	merge := func(v registry.Seen) {
		t.Helper()
		if err := u.MergeSeen(t.Context(), []registry.Seen{v}); err != nil {
			t.Fatal(err)
		}
	}
	merge(one)
	checkSeen(t, u, nil, seen("a", "db", "v1", 1))
	if err := s.Delete(t.Context(), "a", ""); err != nil {
		t.Fatal(err)
	}
	again := mustCreate(t, s, doc)
	checkSeen(t, u, nil)
	merge(one) // it arrives late
	merge(seen("never", "db", "v1", 1))
	checkSeen(t, u, nil)
	one.UID = again.UID
	merge(one)
	checkSeen(t, u, nil, seen("a", "db", "v1", 1))
}
