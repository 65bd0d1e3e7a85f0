package usage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/registry"
)

// world is a Recorder with the clock of a test.
type world struct {
	*testing.T
	r     *Recorder
	store *failing
	log   *audit.Log
	out   *io.PipeReader
	begin time.Time
	calls int
}

func newWorld(t *testing.T) *world {
	out, in := io.Pipe()
	w := &world{T: t, store: &failing{Memory: NewMemory(0)}, log: audit.New(in), out: out, begin: time.Now().UTC()}
	w.r = New(Config{Store: w.store, Replica: "replica-1"})
	return w
}

// read is a call that gets a version, whose record is not committed yet.
func (w *world) read(version string) {
	w.Helper()
	w.calls++
	u := readOf(worker, "sink", "a", ref, version)
	u.RequestID = fmt.Sprint("request-", w.calls)
	committed := make(chan error, 1)
	go func() {
		_, p, err := w.log.Begin([]audit.Event{{RequestID: "other"}, {RequestID: u.RequestID}})
		u.Position = p.Next(1)
		committed <- err
	}()
	synctest.Wait()
	go io.ReadAll(io.LimitReader(w.out, 1<<20)) // ends with the log
	if err := <-committed; err != nil {
		w.Fatal(err)
	}
	w.r.Used(u)
	time.Sleep(time.Minute)
}

// end closes the log, so that the test's goroutines end.
func (w *world) end() {
	if err := w.log.Close(); err != nil {
		w.Error(err)
	}
}

// use is the expected summary of a version: first and last are minutes since the begin, and
// the call of the first read.
func (w *world) use(version string, first, last, call int) registry.VersionUse {
	at := func(minutes int) time.Time { return w.begin.Add(time.Duration(minutes) * time.Minute) }
	return registry.VersionUse{Version: version, FirstAt: at(first), LastAt: at(last), RequestID: fmt.Sprint("request-", call), Sequence: uint64(2 * call), Replica: "replica-1"}
}

func (w *world) flush(fails error) {
	w.Helper()
	w.store.set(w.store.Memory, fails)
	if err := w.r.Flush(w.Context()); !errors.Is(err, fails) {
		w.Fatal(err)
	}
}

func (w *world) check(want ...registry.VersionUse) {
	w.Helper()
	got, err := w.store.Usage(w.Context(), "a", time.Time{}, 0)
	if err != nil || len(got) != 1 {
		w.Fatalf("%+v, %v", got, err)
	}
	if diff := cmp.Diff(want, got[0].Versions); diff != "" {
		w.Errorf("(-want +got):\n%s", diff)
	}
	if got[0].Version != want[0].Version {
		w.Errorf("the last version is %s", got[0].Version)
	}
}

// TestVersions: the last versions of a use are kept, each with the call that read it first,
// whatever is read between flushes, and although flushes fail.
func TestVersions(t *testing.T) {
	down := errors.New("the store is down")
	tests := map[string]func(w *world){
		"one version": func(w *world) {
			w.read("v1")
			w.flush(nil)
			w.check(w.use("v1", 0, 0, 1))
			w.read("v1")
			w.flush(nil)
			w.check(w.use("v1", 0, 1, 1))
		},
		"a change between flushes": func(w *world) {
			w.read("v1")
			w.flush(nil)
			w.read("v1")
			w.read("v2")
			w.flush(nil)
			w.check(w.use("v2", 2, 2, 3), w.use("v1", 0, 1, 1))
		},
		"back to the previous version": func(w *world) {
			w.read("v1")
			w.read("v2")
			w.flush(nil)
			w.read("v1")
			w.flush(nil)
			w.check(w.use("v1", 0, 2, 1), w.use("v2", 1, 1, 2))
		},
		"in turns": func(w *world) {
			for _, v := range []string{"v1", "v2", "v1", "v2"} {
				w.read(v)
			}
			w.flush(nil)
			w.check(w.use("v2", 1, 3, 2), w.use("v1", 0, 2, 1))
		},
		"too many": func(w *world) {
			for i := range 6 {
				w.read(fmt.Sprint("v", i))
			}
			w.flush(nil)
			w.check(w.use("v5", 5, 5, 6), w.use("v4", 4, 4, 5), w.use("v3", 3, 3, 4), w.use("v2", 2, 2, 3))
			w.read("v6")
			w.flush(nil)
			w.check(w.use("v6", 6, 6, 7), w.use("v5", 5, 5, 6), w.use("v4", 4, 4, 5), w.use("v3", 3, 3, 4))
		},
		"a failed flush": func(w *world) {
			w.read("v1")
			w.flush(down)
			w.read("v2")
			w.flush(down)
			w.read("v2")
			w.flush(nil)
			w.check(w.use("v2", 1, 2, 2), w.use("v1", 0, 0, 1))
		},
		"a failed flush with too many": func(w *world) {
			for i := range 4 {
				w.read(fmt.Sprint("v", i))
			}
			w.flush(down)
			w.read("v4")
			w.flush(nil)
			w.check(w.use("v4", 4, 4, 5), w.use("v3", 3, 3, 4), w.use("v2", 2, 2, 3), w.use("v1", 1, 1, 2))
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				defer w.end()
				test(w)
			})
		})
	}
}

// during is a Memory that calls a function in the middle of MergeUsage, which then fails.
type during struct {
	*Memory
	call func()
}

func (d *during) MergeUsage(ctx context.Context, batch []registry.Usage) error {
	if d.call == nil {
		return d.Memory.MergeUsage(ctx, batch)
	}
	d.call()
	d.call = nil
	return errors.New("failed")
}

// TestVersionChangesDuringAFailedFlush: the last read of the previous version is not lost.
func TestVersionChangesDuringAFailedFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &during{Memory: NewMemory(0)}
		r := New(Config{Store: store})
		begin := time.Now().UTC()
		r.Used(readOf(worker, "sink", "a", ref, "v1"))
		if err := r.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		r.Used(readOf(worker, "sink", "a", ref, "v1")) // its version is not new
		store.call = func() {
			time.Sleep(time.Minute)
			r.Used(readOf(worker, "sink", "a", ref, "v2"))
		}
		if err := r.Flush(t.Context()); err == nil {
			t.Fatal("no error")
		}
		if err := r.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		got, err := store.Usage(t.Context(), "a", time.Time{}, 0)
		want := []registry.VersionUse{
			{Version: "v2", FirstAt: begin.Add(2 * time.Minute), LastAt: begin.Add(2 * time.Minute), RequestID: "request"},
			{Version: "v1", FirstAt: begin, LastAt: begin.Add(time.Minute), RequestID: "request"},
		}
		if diff := cmp.Diff(want, got[0].Versions); err != nil || diff != "" {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	})
}

// TestUncommittedReadsWait: a use is written when its record is committed, and without a
// position if the record could not be written.
func TestUncommittedReadsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, in := io.Pipe()
		log := audit.New(in)
		store := NewMemory(0)
		r := New(Config{Store: store})
		done := make(chan struct{})
		started := make(chan audit.Position, 100)
		go func() { // no goroutine reads the pipe, so the writes hang for two seconds and then fail
			defer close(done)
			for range 20 {
				go func() {
					_, p, _ := log.Begin([]audit.Event{{RequestID: "x"}})
					started <- p
				}()
			}
		}()
		<-done
		synctest.Wait()
		if len(started) != 0 {
			t.Fatal("a write to a pipe without a reader ended")
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		p := <-started
		u := readOf(worker, "sink", "a", ref, "v1")
		u.Position = p
		r.Used(u)
		if err := r.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		got, err := store.Usage(t.Context(), "a", time.Time{}, 0)
		if err != nil || len(got) != 1 || len(got[0].Versions) != 1 || got[0].Versions[0].Sequence != 0 || got[0].Versions[0].RequestID != "request" {
			t.Errorf("%+v, %v", got, err)
		}
		_ = out.Close()
		_ = log.Close() // the pipe is broken
		synctest.Wait()
	})
}

// TestMergeUsage: the order in which reports arrive makes no difference, and the result has
// at most MaxVersions versions, the latest first.
func TestMergeUsage(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	at := func(n int) time.Time { return time.Unix(int64(1000+n), 0).UTC() }
	for range 2000 {
		var reports []registry.Usage
		for range 1 + rnd.IntN(5) {
			first := rnd.IntN(50)
			last := first + rnd.IntN(50)
			v := fmt.Sprint("v", rnd.IntN(registry.MaxVersions))
			u := registry.Usage{Version: v, FirstAt: at(first), LastAt: at(last)}
			if rnd.IntN(2) == 0 {
				u.Versions = []registry.VersionUse{{Version: v, FirstAt: at(first), LastAt: at(last), RequestID: fmt.Sprint(first), Sequence: uint64(first)}}
			}
			reports = append(reports, u)
		}
		merge := func() registry.Usage {
			all := reports[0]
			for _, u := range reports[1:] {
				all = registry.MergeUsage(all, u)
			}
			return registry.MergeUsage(all, all)
		}
		want := merge()
		rnd.Shuffle(len(reports), func(i, j int) { reports[i], reports[j] = reports[j], reports[i] })
		if diff := cmp.Diff(want, merge()); diff != "" {
			t.Fatalf("another order:\n%s", diff)
		}
		later := func(a, b registry.VersionUse) int { return b.LastAt.Compare(a.LastAt) }
		if len(want.Versions) > registry.MaxVersions || !slices.IsSortedFunc(want.Versions, later) || want.Version != want.Versions[0].Version || !want.LastAt.Equal(want.Versions[0].LastAt) {
			t.Fatalf("%+v", want)
		}
	}
}

// TestSeen: what a read of the store has found is written once, and again after a minute or a
// change. A read that began earlier changes nothing.
func TestSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := NewMemory(0)
		r := New(Config{Store: store})
		saw := func(version string, ago time.Duration) {
			r.Seen(registry.Seen{Integration: "a", Store: "s", Secret: "db", Version: version, ReadAt: time.Now().Add(-ago)})
		}
		expect := func(version string, dirty bool) {
			t.Helper()
			for _, e := range r.seen.all {
				if e.dirty != dirty {
					t.Errorf("to be written: %v", e.dirty)
				}
			}
			if err := r.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			got, err := store.Seen(t.Context(), []string{"db", "other"})
			if err != nil || len(got) != 1 || got[0].Version != version || got[0].Integration != "a" || got[0].Store != "s" {
				t.Errorf("%+v, %v", got, err)
			}
		}
		saw("v1", 0)
		expect("v1", true)
		time.Sleep(time.Second)
		saw("v1", 0)
		expect("v1", false)
		saw("v2", 0)
		expect("v2", true)
		saw("v1", time.Second)
		expect("v2", false)
		time.Sleep(time.Minute)
		saw("v2", 0)
		expect("v2", true)
		for i := range maxSeen + 10 {
			r.Seen(registry.Seen{Integration: "a", Store: "s", Secret: fmt.Sprint(i), Version: "v", ReadAt: time.Now()})
		}
		if n := len(r.seen.all); n != maxSeen {
			t.Errorf("%d secrets in memory", n)
		}
	})
}
