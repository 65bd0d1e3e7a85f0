package dirstore

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry"
)

// changing returns a Store with a changed file whose next look hangs until release is
// called, as at a file server that does not respond. It must be called in a synctest
// bubble.
func changing(t *testing.T) (f *Store, log *asynctest.Buffer, release func()) {
	t.Helper()
	dir := t.TempDir()
	write(t, dir+"/a.yaml", managed("a", "aaa"))
	log = &asynctest.Buffer{}
	blocked := make(chan struct{})
	f, err := Open(Config{Kinds: kinds.All(), Dir: dir, Logger: slog.New(slog.NewTextHandler(log, nil)), OnChange: func(_, _ []*integration.Integration) { <-blocked }})
	if err != nil {
		t.Fatal(err)
	}
	if st := f.Status(); st.Problem != "" || st.Refuses || time.Since(st.SeenAt) > time.Second {
		t.Fatalf("at first: %+v", st)
	}
	write(t, dir+"/a.yaml", managed("a", "changed"))
	return f, log, func() { close(blocked) }
}

// run starts Run without the system's notifications, for which synctest cannot wait.
func run(ctx context.Context, f *Store) (ended <-chan error) {
	done := make(chan error, 1)
	go func() {
		done <- f.run(ctx, func(ctx context.Context) {
			for ctx.Err() == nil {
				f.update(f.poll)
				select {
				case <-ctx.Done():
				case <-time.After(f.interval):
				}
			}
		})
	}()
	return done
}

// TestHangingLook: a look that does not end is reported by Status and in the log, and
// after maxOutage calls are refused until a look is complete again.
func TestHangingLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		f, log, release := changing(t)
		ended, began := run(ctx, f), time.Now()
		time.Sleep(f.interval + lookTime - time.Second)
		if st := f.Status(); st.Problem != "" {
			t.Errorf("too early: %+v", st)
		}
		time.Sleep(3 * time.Second)
		st := f.Status()
		if !strings.Contains(st.Problem, f.dir) || st.Refuses || st.SeenAt.After(began) || !st.RefusesAt.Equal(st.SeenAt.Add(maxOutage)) {
			t.Errorf("while it hangs: %+v", st)
		}
		if out := log.Take(); strings.Count(out, "level=ERROR") != 1 || !strings.Contains(out, "no change takes effect") {
			t.Errorf("log: %s", out)
		}
		if _, err := f.Get("a"); err != nil {
			t.Errorf("within maxOutage: %v", err)
		}
		time.Sleep(maxOutage)
		for name, get := range map[string]func() error{
			"Get":      func() error { _, err := f.Get("a"); return err },
			"WithRole": func() error { _, err := f.WithRole("spiffe://example.org/x"); return err },
			"Record":   func() error { _, err := f.Record(ctx, "a"); return err },
			"Records":  func() error { _, err := f.Records(ctx, registry.Page{}); return err },
		} {
			if err := get(); !errors.Is(err, registry.ErrUnavailable) {
				t.Errorf("%s after maxOutage: %v", name, err)
			}
		}
		if !f.Status().Refuses {
			t.Error("Status does not say that calls are refused")
		}
		release()
		time.Sleep(f.interval + 2*time.Second)
		if _, err := f.Get("a"); err != nil || f.Status().Problem != "" || !strings.Contains(log.Take(), "read again") {
			t.Errorf("afterwards: %v, %+v", err, f.Status())
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestRunEndsWhileALookHangs: a process that is asked to stop ends although a look hangs.
func TestRunEndsWhileALookHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		f, _, release := changing(t)
		ended := run(ctx, f)
		time.Sleep(time.Second)
		cancel()
		begin := time.Now()
		if err := <-ended; err != nil || time.Since(begin) != endTime {
			t.Errorf("Run ended after %v: %v", time.Since(begin), err)
		}
		release()
	})
}

// TestReloadReturnsWhileItHangs: a SIGHUP does not block other work, and later SIGHUPs do
// not accumulate goroutines.
func TestReloadReturnsWhileItHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, log, release := changing(t)
		for _, want := range []string{"has not ended yet", "an earlier reload has not ended", "an earlier reload has not ended"} {
			begin := time.Now()
			if f.Reload(); time.Since(begin) != lookTime {
				t.Errorf("Reload returned after %v", time.Since(begin))
			}
			if out := log.Take(); strings.Count(out, "level=ERROR") != 1 || !strings.Contains(out, want) {
				t.Errorf("log: %s", out)
			}
		}
		release()
		synctest.Wait()
		write(t, f.dir+"/b.yaml", managed("b", "bbb"))
		if f.Reload(); len(f.List()) != 2 {
			t.Error("the reload afterwards has no effect")
		}
	})
}

// TestUnreadableDirectoryHasAnEnd: the content of a directory that cannot be read any more
// is served for maxOutage, like the content of a database.
func TestUnreadableDirectoryHasAnEnd(t *testing.T) {
	w := three(t)
	if err := os.Rename(w.dir, w.dir+".moved"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(w.dir + ".moved") })
	if err := os.WriteFile(w.dir, nil, 0o600); err != nil { // a file cannot be listed
		t.Fatal(err)
	}
	w.poll()
	w.later(maxOutage - time.Second)
	w.poll()
	if st := w.files.Status(); st.Problem == "" || st.Refuses {
		t.Errorf("before the end: %+v", st)
	}
	w.serves("a", "b", "c")
	w.later(2 * time.Second)
	w.poll()
	if _, err := w.files.Get("a"); !errors.Is(err, registry.ErrUnavailable) || !w.files.Status().Refuses {
		t.Errorf("after the end: %v, %+v", err, w.files.Status())
	}
}

// TestSuspended: after the process was suspended for longer than the poll interval, the
// first call waits for a look, and so sees a file that changed meanwhile.
func TestSuspended(t *testing.T) {
	dir, credentials := t.TempDir(), t.TempDir()
	named := credentials + "/secret"
	write(t, named, "one")
	write(t, dir+"/a.yaml", withSecret("a", named))
	var jump atomic.Int64 // the time of the suspension
	clock := func() time.Time { return time.Now().Add(time.Duration(jump.Load())) }
	// Only a look that a call has asked for takes place within the interval.
	f, err := Open(Config{Kinds: kinds.All(), Dir: dir, PollInterval: time.Hour, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	began := *f.seen.Load()
	go func() { ended <- f.Run(ctx) }()
	asynctest.Eventually(t, "Run looks", func() bool { return f.seen.Load().After(began) })
	before, err := f.Get("a")
	if err != nil {
		t.Fatal(err)
	}
	write(t, named, "other")
	if now, err := f.Get("a"); err != nil || now != before {
		t.Errorf("before the suspension: %v, %v", now, err)
	}
	jump.Store(int64(2 * time.Hour))
	if now, err := f.Get("a"); err != nil || now.Revision == before.Revision {
		t.Errorf("after the suspension: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestCallsDoNotWaitForAHangingLook: if no look ends, calls wait once, for a second
// altogether.
func TestCallsDoNotWaitForAHangingLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		f, _, release := changing(t)
		ended := run(ctx, f)
		time.Sleep(f.interval + slack + time.Second)
		began := time.Now()
		var calls sync.WaitGroup
		for range 3 {
			calls.Go(func() {
				for range 3 {
					if _, err := f.Get("a"); err != nil {
						t.Error(err)
					}
				}
			})
		}
		calls.Wait()
		if took := time.Since(began); took != freshTime {
			t.Errorf("the calls took %v", took)
		}
		release()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
