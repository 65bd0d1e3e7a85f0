package usage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const worker = authz.Principal("spiffe://example.org/connect/worker-1")

var ref = secret.Ref{Store: "https://abc.vault.azure.net", Name: "db", Key: "password"}

// readOf is a read by the grant g in the call request-VERSION.
func readOf(who authz.Principal, connector, integration string, ref secret.Ref, version string) registry.Read {
	return registry.Read{Principal: who, Connector: connector, Integration: integration, GrantID: "g", Ref: ref, Version: version, RequestID: "request"}
}

func used(version string, first, last time.Time) registry.Usage {
	return registry.Usage{Integration: "a", Principal: worker, Connector: "sink", Store: ref.Store, Secret: ref.Name, Key: ref.Key, GrantID: "g",
		Version: version, FirstAt: first.UTC(), LastAt: last.UTC()}
}

// failing is a Memory whose MergeUsage can fail.
type failing struct {
	mu sync.Mutex
	*Memory
	err     error
	batches []int
}

// set sets the error, and replaces the Memory.
func (f *failing) set(m *Memory, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Memory, f.err = m, err
}

func (f *failing) MergeUsage(ctx context.Context, batch []registry.Usage) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.batches = append(f.batches, len(batch))
	if f.err != nil {
		return f.err
	}
	return f.Memory.MergeUsage(ctx, batch)
}

// check compares the stored usage of the integration a, without Versions.
func check(t *testing.T, s registry.UsageStore, want ...registry.Usage) {
	t.Helper()
	got, err := s.Usage(t.Context(), "a", time.Time{}, 0)
	for i := range got {
		got[i].Versions = nil
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestRecorder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &failing{Memory: NewMemory(0)}
		r := New(Config{Store: store, Interval: 5 * time.Second})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		begin := time.Now()
		r.Used(readOf(worker, "sink", "a", ref, "v1"))
		time.Sleep(time.Second)
		r.Used(readOf(worker, "sink", "a", ref, "v2"))
		check(t, store)
		time.Sleep(5 * time.Second)
		check(t, store, used("v2", begin, begin.Add(time.Second)))
		time.Sleep(time.Minute)
		synctest.Wait()
		if diff := cmp.Diff([]int{1}, store.batches); diff != "" {
			t.Errorf("a flush without new uses changed the store: %s", diff)
		}
		// While the store fails nothing is lost, and the time of the first use stays.
		store.set(store.Memory, errors.New("the store is down"))
		failed := time.Now()
		r.Used(readOf(worker, "sink", "a", ref, "v3"))
		time.Sleep(20 * time.Second)
		r.Used(readOf(worker, "sink", "a", ref, "v3"))
		last := time.Now()
		store.set(NewMemory(0), nil) // to see only what is written from now on
		time.Sleep(5 * time.Second)
		check(t, store, used("v3", failed, last))
		// Entries that have not been used for long are removed from memory, but not from the store.
		if r.Entries() != 1 {
			t.Errorf("%d entries in memory", r.Entries())
		}
		time.Sleep((idle + 2) * 5 * time.Second)
		if r.Entries() != 0 {
			t.Errorf("%d entries after a long time", r.Entries())
		}
		check(t, store, used("v3", failed, last))
		// The end of Run writes the unwritten uses.
		r.Used(readOf(worker, "sink", "a", ref, "v4"))
		last = time.Now()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		check(t, store, used("v4", failed, last))
	})
}

func TestRecorderIsBounded(t *testing.T) {
	store := NewMemory(20)
	r := New(Config{Store: store, MaxEntries: 100})
	for i := range 1000 {
		r.Used(readOf(worker, fmt.Sprint("c", i), "a", ref, "v1"))
		r.Used(readOf(worker, "c0", "a", ref, "v1"))
	}
	// An eighth of the entries, one of them perhaps without a connector's name, and the
	// integration's entry.
	if r.Entries() != 100/shareOf+1 || r.Folded() < 980 {
		t.Errorf("%d entries, %d folded", r.Entries(), r.Folded())
	}
	r.Flush(t.Context())
	got, err := store.Usage(t.Context(), "a", time.Time{}, 0)
	if err != nil || len(got) != 100/shareOf+1 || got[0].Connector != "c0" && got[1].Connector != "c0" {
		t.Errorf("%d of them kept, %v", len(got), err)
	}
	if some, _ := store.Usage(t.Context(), "a", time.Time{}, 3); len(some) != 3 {
		t.Errorf("%d of at most 3", len(some))
	}
}

func TestRecorderIsConcurrent(t *testing.T) {
	store := NewMemory(0)
	r := New(Config{Store: store})
	var callers sync.WaitGroup
	for n := range 8 {
		callers.Go(func() {
			for i := range 500 {
				r.Used(readOf(worker, fmt.Sprint(i%50), "a", ref, fmt.Sprint(n)))
				if i%100 == 0 {
					r.Flush(t.Context())
				}
			}
		})
	}
	callers.Wait()
	r.Flush(t.Context())
	if got, err := store.Usage(t.Context(), "a", time.Time{}, 0); err != nil || len(got) != 50 {
		t.Errorf("%d entries, %v", len(got), err)
	}
	if last, err := store.LastUsed(t.Context()); err != nil || len(last) != 1 || last["a"].IsZero() {
		t.Errorf("%v, %v", last, err)
	}
}

// TestRecorderTellsNamesApart: names whose concatenations are equal are distinguished.
func TestRecorderTellsNamesApart(t *testing.T) {
	store := NewMemory(0)
	r := New(Config{Store: store})
	long := strings.Repeat("n", 3000)
	for _, u := range []registry.Usage{
		{Connector: "ab", Store: "c"}, {Connector: "a", Store: "bc"}, {Connector: "abc"},
		{Connector: "sink", Store: "s", Secret: long}, {Connector: "sink", Store: "s", Secret: long, Key: "k"},
	} {
		r.Used(readOf(worker, u.Connector, "a", secret.Ref{Store: u.Store, Name: u.Secret, Key: u.Key}, "v1"))
	}
	r.Flush(t.Context())
	got, err := store.Usage(t.Context(), "a", time.Time{}, 0)
	names := make(map[[4]string]bool)
	for _, u := range got {
		names[[4]string{u.Connector, u.Store, u.Secret, u.Key}] = u.Principal == worker && u.Integration == "a" && u.Version == "v1"
	}
	want := map[[4]string]bool{{"ab", "c"}: true, {"a", "bc"}: true, {"abc"}: true, {"sink", "s", long}: true, {"sink", "s", long, "k"}: true}
	if diff := cmp.Diff(want, names); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestUsedDoesNotAllocate(t *testing.T) {
	r := New(Config{Store: NewMemory(0)})
	r.Used(readOf(worker, "sink", "a", ref, "v1"))
	if n := testing.AllocsPerRun(1000, func() { r.Used(readOf(worker, "sink", "a", ref, "v1")) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkUsed records one use repeatedly, and many different uses in turn.
func BenchmarkUsed(b *testing.B) {
	for _, uses := range []int{1, 20_000} {
		b.Run(fmt.Sprint("uses=", uses), func(b *testing.B) {
			r := New(Config{Store: NewMemory(0)})
			refs := make([]secret.Ref, uses)
			for i := range refs {
				refs[i] = ref
				refs[i].Name = fmt.Sprint("db-", i)
				r.Used(readOf(worker, "sink", "a", refs[i], "v1"))
			}
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i = (i + 7919) % uses {
					r.Used(readOf(worker, "sink", "a", refs[i], "v1"))
				}
			})
		})
	}
}

// BenchmarkFlush flushes more uses of one integration than a Memory stores.
func BenchmarkFlush(b *testing.B) {
	r := New(Config{Store: NewMemory(0)})
	for b.Loop() {
		for i := range 20_000 {
			r.Used(readOf(worker, "sink", "a", secret.Ref{Store: ref.Store, Name: fmt.Sprint("db-", i), Key: "password"}, "v1"))
		}
		r.Flush(b.Context())
	}
}

// TestOnePrincipalLeavesRoomForOthers: a principal that invents connector names displaces no
// entries of others, and all of its uses are recorded.
func TestOnePrincipalLeavesRoomForOthers(t *testing.T) {
	store := NewMemory(0)
	r := New(Config{Store: store})
	const flood = 100_000
	for i := range flood {
		r.Used(readOf("dns:flood", fmt.Sprint("c", i), "a", ref, "v1"))
	}
	if n := r.Entries(); n > maxConnectors+1 {
		t.Errorf("%d entries of one secret", n)
	}
	for i := range flood { // and the same number of secrets
		r.Used(readOf("dns:flood", "c", "b", secret.Ref{Store: ref.Store, Name: fmt.Sprint("s", i)}, "v1"))
	}
	if n := r.Entries(); n > r.cfg.MaxEntries/shareOf+2 {
		t.Errorf("%d entries of one principal", n)
	}
	r.Used(readOf("dns:flood", "c", "only", secret.Ref{Store: ref.Store, Name: "late"}, "v1"))
	r.Used(readOf(worker, "sink", "a", ref, "v1"))
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	all, err := store.Usage(t.Context(), "a", time.Time{}, 0)
	if err != nil || !slices.ContainsFunc(all, func(u registry.Usage) bool { return u.Principal == worker && u.Connector == "sink" }) {
		t.Errorf("the other principal's use is not recorded: %d, %v", len(all), err)
	}
	if late, err := store.Usage(t.Context(), "only", time.Time{}, 0); err != nil || len(late) != 1 || late[0].Secret != "" || late[0].Principal != "dns:flood" {
		t.Errorf("the uses beyond the limit are recorded as %v, %v", late, err)
	}
	for range idle + 1 {
		_ = r.Flush(t.Context()) // a Memory does not fail
	}
	if r.Entries() != 0 || len(r.shares.of) != 0 {
		t.Errorf("%d entries and %d shares are left", r.Entries(), len(r.shares.of))
	}
}

// TestMemoryIsShared: a principal that invents connector names displaces no older entries of
// others, and uses without an entry of their own still count.
func TestMemoryIsShared(t *testing.T) {
	m := NewMemory(20)
	noon := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for i := range 300 {
		who := authz.Principal("dns:flood")
		if i < 5 {
			who = "dns:old"
		}
		at := noon.Add(time.Duration(i) * time.Minute)
		if err := m.MergeUsage(t.Context(), []registry.Usage{{Integration: "a", Principal: who, Connector: fmt.Sprint("c", i), Store: ref.Store, Secret: "x", FirstAt: at, LastAt: at}}); err != nil {
			t.Fatal(err)
		}
	}
	all, err := m.Usage(t.Context(), "a", time.Time{}, 0)
	if err != nil || len(all) > 21 || len(all) < 10 {
		t.Fatalf("%d entries, %v", len(all), err)
	}
	old, kept, folded := 0, 0, registry.Usage{}
	for _, u := range all {
		switch {
		case u.Principal == "dns:old" && u.Secret == "x":
			old++
		case u.Secret == "x":
			kept++
		case u.Principal == "dns:flood":
			folded = u
		}
	}
	if want := all[kept-1].FirstAt.Add(-time.Minute); old != 5 || !folded.FirstAt.Equal(noon.Add(5*time.Minute)) || !folded.LastAt.Equal(want) {
		t.Errorf("%d of the other's entries are kept, %d of its own, the rest is folded into %+v", old, kept, folded)
	}
}

// TestMemoryForgetsIntegrations: the usage of a deleted integration is deleted.
func TestMemoryForgetsIntegrations(t *testing.T) {
	m := NewMemory(0)
	there := map[string]bool{"a": true, "b": true}
	m.Keep(func(id string) bool { return there[id] })
	merge := func(ids ...string) {
		for _, id := range ids {
			if err := m.MergeUsage(t.Context(), []registry.Usage{{Integration: id, Principal: worker, LastAt: time.Now()}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	merge("a", "b")
	delete(there, "a")
	merge("a", "b")
	if last, err := m.LastUsed(t.Context()); err != nil || len(last) != 1 || last["b"].IsZero() {
		t.Errorf("%v, %v", last, err)
	}
}
