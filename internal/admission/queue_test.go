package admission

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestQueueTakesTurns: a caller with many waiting calls gets at most half of the slots,
// and another caller waits for few of these calls.
func TestQueueTakesTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(2)
		q.maxWait = time.Minute
		var mu sync.Mutex
		var order []string
		running, most := map[string]int{}, map[string]int{}
		var calls sync.WaitGroup
		call := func(name string) {
			calls.Go(func() {
				if over, err := q.Acquire(t.Context(), name); over != nil || err != nil {
					t.Errorf("%s: %v, %v", name, over, err)
					return
				}
				mu.Lock()
				order = append(order, name)
				for _, n := range []string{name, "all"} {
					running[n]++
					most[n] = max(most[n], running[n])
				}
				mu.Unlock()
				time.Sleep(time.Second)
				mu.Lock()
				running[name]--
				running["all"]--
				mu.Unlock()
				q.Release(name)
			})
		}
		for range 4 {
			call("a")
		}
		synctest.Wait()
		if running["a"] != 1 {
			t.Errorf("%d calls of one caller run", running["a"])
		}
		for range 4 {
			call("b")
		}
		synctest.Wait()
		call("c")
		calls.Wait()
		if at := slices.Index(order, "c"); at > 5 {
			t.Errorf("c got a slot after %d calls of others", at)
		}
		if most["a"] != 1 || most["b"] != 1 || most["all"] != 2 || len(order) != 9 {
			t.Errorf("%v, %d calls", most, len(order))
		}
		if len(q.callers) != 0 || len(q.turns) != 0 || q.running != 0 {
			t.Errorf("the queue still has %d callers, %d turns, %d running", len(q.callers), len(q.turns), q.running)
		}
	})
}

// TestQueueEndsWaits: a call waits at most until its context ends or the maximum time has
// passed, and gets no slot afterwards.
func TestQueueEndsWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(1)
		if over, err := q.Acquire(t.Context(), "a"); over != nil || err != nil {
			t.Fatal(over, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if over, err := q.Acquire(ctx, "b"); over != nil || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, %v", over, err)
		}
		begin := time.Now()
		over, err := q.Acquire(t.Context(), "a")
		if err != nil || over == nil || over.Limit != CPU || over.RetryAfter == 0 || time.Since(begin) != maxQueueTime {
			t.Errorf("got %+v, %v after %v", over, err, time.Since(begin))
		}
		q.Release("a")
		if over, err := q.Acquire(t.Context(), "b"); over != nil || err != nil {
			t.Errorf("got %v, %v", over, err)
		}
		q.Release("b")
		if len(q.callers) != 0 || len(q.turns) != 0 {
			t.Errorf("%d callers and %d turns are left", len(q.callers), len(q.turns))
		}
	})
}

// TestQueueLetsOthersRun: goroutines that are ready run before calls that wait for slots.
func TestQueueLetsOthersRun(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	q := NewQueue(2)
	var heavy atomic.Int64
	before := int64(-1)
	var calls sync.WaitGroup
	for i := range 40 {
		calls.Go(func() {
			name := strconv.Itoa(i % 4)
			if over, err := q.Acquire(t.Context(), name); over != nil || err != nil {
				t.Errorf("%v, %v", over, err)
				return
			}
			heavy.Add(1)
			q.Release(name)
		})
	}
	calls.Go(func() { before = heavy.Load() })
	calls.Go(func() {}) // Go runs the last one first
	calls.Wait()
	if before < 0 || before > 4 {
		t.Errorf("%d of %d heavy calls ran before the light call", before, heavy.Load())
	}
	if heavy.Load() != 40 || len(q.callers) != 0 || q.running != 0 {
		t.Errorf("%d calls ran; the queue still has %d callers, %d running", heavy.Load(), len(q.callers), q.running)
	}
}
