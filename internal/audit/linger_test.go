package audit

import (
	"io"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// slowDisk is a writer whose fsync takes a given time of the bubble's clock.
type slowDisk struct {
	io.Writer
	takes time.Duration
}

func (d *slowDisk) Sync() error {
	time.Sleep(d.takes)
	return nil
}

func newSlowLog(takes time.Duration) *Log {
	l := newLog("", &slowDisk{io.Discard, takes})
	l.sync, l.regular = true, true
	go l.run()
	return l
}

// TestOneProcessorGroups: on a single processor, Writes of runnable goroutines share a
// commit, although the first of them wakes the writer.
func TestOneProcessorGroups(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	l := New(io.Discard)
	const calls, rounds = 64, 20
	for range rounds {
		var wg sync.WaitGroup
		for range calls {
			wg.Go(func() {
				if err := l.Write(t.Context(), []Event{{RequestID: "r"}}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	// Two commits per round are enough, a full batch and the rest, but the scheduler may
	// preempt.
	if s := l.Stats(); s.Records != calls*rounds || s.Batches > 6*rounds {
		t.Errorf("%d records in %d commits", s.Records, s.Batches)
	}
}

// TestLoneWritesDoNotLinger: each has its own commit, which begins at once.
func TestLoneWritesDoNotLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const takes, writes = 5 * time.Millisecond, 20
		l := newSlowLog(takes)
		began := time.Now()
		for range writes {
			if err := l.Write(t.Context(), []Event{{RequestID: "r"}}); err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(began); took != writes*takes {
			t.Errorf("took %v, want %v", took, writes*takes)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if s := l.Stats(); s.Batches != writes {
			t.Errorf("%d commits of %d writes", s.Batches, writes)
		}
	})
}

// TestCallersShareCommits: callers that return as soon as a commit releases them form one
// batch, not two that wait for each other's commits.
func TestCallersShareCommits(t *testing.T) {
	for _, tt := range []struct {
		name         string
		takes, think time.Duration
		callers      int
		commits      uint64 // limit for each round of the callers, in tenths
	}{
		{"2, at once", 5 * time.Millisecond, 0, 2, 12},
		{"16, at once", 5 * time.Millisecond, 0, 16, 12},
		{"16, a fast disk", 150 * time.Microsecond, 100 * time.Microsecond, 16, 12},
		{"16, after half a millisecond", 5 * time.Millisecond, 500 * time.Microsecond, 16, 12},
		{"16, after longer than the linger", 5 * time.Millisecond, 3 * time.Millisecond, 16, 22},
		{"256, at once", 5 * time.Millisecond, 0, 256, 22},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const rounds = 50
				l := newSlowLog(tt.takes)
				began := time.Now()
				var wg sync.WaitGroup
				for range tt.callers {
					wg.Go(func() {
						for range rounds {
							if err := l.Write(t.Context(), []Event{{RequestID: "r"}}); err != nil {
								t.Error(err)
							}
							time.Sleep(tt.think)
						}
					})
				}
				wg.Wait()
				took := time.Since(began)
				if err := l.Close(); err != nil {
					t.Error(err)
				}
				s := l.Stats()
				t.Logf("%d commits in %v", s.Batches, took)
				if s.Records != uint64(tt.callers*rounds) || s.Batches > rounds*tt.commits/10 {
					t.Errorf("%d records in %d commits", s.Records, s.Batches)
				}
				if limit := rounds * (2*tt.takes + 2*maxLinger + tt.think); took > limit {
					t.Errorf("took %v, want at most %v", took, limit)
				}
			})
		})
	}
}

// TestLingerIsBounded: the writer waits at most maxLinger for callers that do not return,
// and does not wait when the log is closed.
func TestLingerIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const takes = 5 * time.Millisecond
		l := newSlowLog(takes)
		both := func() {
			var wg sync.WaitGroup
			for range 16 {
				wg.Go(func() { _ = l.Write(t.Context(), []Event{{RequestID: "r"}}) })
			}
			wg.Wait()
		}
		both()
		began := time.Now()
		if err := l.Write(t.Context(), []Event{{RequestID: "alone"}}); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > takes+maxLinger {
			t.Errorf("a Write took %v", took)
		}
		both()
		began = time.Now()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("Close took %v", took)
		}
	})
}
