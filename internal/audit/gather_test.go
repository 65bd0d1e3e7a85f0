package audit

import (
	"io"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// slowDisk is a sink whose fsync takes a while, by the clock of the test's bubble.
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

// TestOneProcessorGroups: on a single processor, Writes that are ready to run share a
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
	// Two would do: one of a crowd, and one of the rest. The scheduler may interrupt.
	if s := l.Stats(); s.Records != calls*rounds || s.Batches > 6*rounds {
		t.Errorf("%d records in %d commits", s.Records, s.Batches)
	}
}

// TestLoneWritesWaitForNobody: each has its own commit, and begins it at once.
func TestLoneWritesWaitForNobody(t *testing.T) {
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

// TestCallersShareCommits: callers that come back as soon as they are released are one
// group, not two that wait for each other's commits.
func TestCallersShareCommits(t *testing.T) {
	for _, tt := range []struct {
		name         string
		takes, think time.Duration
		callers      int
		commits      uint64 // for each round of the callers, in tenths
	}{
		{"2, at once", 5 * time.Millisecond, 0, 2, 12},
		{"16, at once", 5 * time.Millisecond, 0, 16, 12},
		{"16, a fast disk", 150 * time.Microsecond, 100 * time.Microsecond, 16, 12},
		{"16, after half a millisecond", 5 * time.Millisecond, 500 * time.Microsecond, 16, 12},
		{"16, after longer than it waits", 5 * time.Millisecond, 3 * time.Millisecond, 16, 22},
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
				if most := rounds * (2*tt.takes + 2*pause + tt.think); took > most {
					t.Errorf("took %v, want %v at most", took, most)
				}
			})
		})
	}
}

// TestCompanyThatStaysAway: the writer waits no longer for it than pause, and not at all
// once somebody closes the log.
func TestCompanyThatStaysAway(t *testing.T) {
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
		if took := time.Since(began); took > takes+pause {
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
