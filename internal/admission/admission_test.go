package admission

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/cpulimit"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// newLimiter returns a Limiter whose CPUs are never overloaded.
func newLimiter(l Limits) *Limiter {
	lim := New(l)
	lim.wait = func() time.Duration { return 0 }
	return lim
}

// enter expects the Limiter to admit a call if want is empty, and otherwise to refuse
// it because of the limit want.
func enter(t *testing.T, lim *Limiter, name string, now time.Time, want Limit) *Refusal {
	t.Helper()
	r := lim.Acquire(name, 0, now)
	switch {
	case r == nil && want != "":
		t.Fatalf("%s was admitted, want a refusal for %s", name, want)
	case r != nil && r.Limit != want:
		t.Fatalf("%s was refused for %s, want %q", name, r.Limit, want)
	}
	return r
}

func TestPerSecond(t *testing.T) {
	lim := newLimiter(Limits{PerSecond: 4})
	now := start
	call := func(name string, want Limit) *Refusal {
		t.Helper()
		r := enter(t, lim, name, now, want)
		if r == nil {
			lim.Release(name)
		}
		return r
	}
	for range 4 { // the burst
		call("a", "")
	}
	if r := call("a", PerSecond); r.RetryAfter != 250*time.Millisecond {
		t.Errorf("retry after %v", r.RetryAfter)
	}
	call("b", "") // b has its own bucket
	now = now.Add(200 * time.Millisecond)
	if r := call("a", PerSecond); r.RetryAfter != 50*time.Millisecond {
		t.Errorf("retry after %v", r.RetryAfter)
	}
	now = now.Add(50 * time.Millisecond)
	call("a", "") // refused calls used no tokens
	call("a", PerSecond)
	now = now.Add(time.Hour)
	for range 4 { // the bucket holds no more
		call("a", "")
	}
	call("a", PerSecond)
}

func TestConcurrent(t *testing.T) {
	lim := newLimiter(Limits{PerSecond: 100, PerCaller: 2, Total: 3})
	enter(t, lim, "a", start, "")
	enter(t, lim, "a", start, "")
	if r := enter(t, lim, "a", start, PerCaller); r.RetryAfter != 0 {
		t.Errorf("retry after %v", r.RetryAfter)
	}
	enter(t, lim, "b", start, "")
	enter(t, lim, "c", start, Total)
	lim.Release("a")
	enter(t, lim, "c", start, "")
	enter(t, lim, "a", start, Total)
	lim.Release("c")
	enter(t, lim, "a", start, "")
}

// TestCallersAreForgotten: the Limiter removes a caller's state once it equals that of a
// new caller, and not before. That limits the memory, and no caller gets a full bucket
// early.
func TestCallersAreForgotten(t *testing.T) {
	lim := newLimiter(Limits{PerSecond: 10, PerCaller: 1})
	lim.maxCallers = 3
	enter(t, lim, "stays", start, "")
	for range 10 {
		enter(t, lim, "empties", start, "")
		lim.Release("empties")
	}
	enter(t, lim, "leaves", start, "")
	lim.Release("leaves")
	enter(t, lim, "new", start, Callers)

	now := start.Add(sweepPause / 2)
	enter(t, lim, "new", now, Callers) // the Limiter does not sweep on each call
	now = start.Add(sweepPause)
	enter(t, lim, "new", now, "")
	if len(lim.callers) != 2 || lim.callers["stays"] == nil || lim.callers["new"] == nil {
		t.Errorf("the limiter tracks %d callers", len(lim.callers))
	}
	enter(t, lim, "stays", now, PerCaller)
	lim.Release("stays")
	enter(t, lim, "stays", now, "")
}

func TestAnEmptyBucketIsNotForgotten(t *testing.T) {
	lim := newLimiter(Limits{PerSecond: 1})
	enter(t, lim, "a", start, "")
	lim.Release("a")
	// If the sweep had removed it, the bucket would be full.
	lim.swept = start.Add(-sweepPause)
	enter(t, lim, "a", start, PerSecond)
}

func TestSetLimits(t *testing.T) {
	lim := newLimiter(Limits{PerSecond: 1, PerCaller: 3, Total: 3})
	enter(t, lim, "a", start, "")
	enter(t, lim, "a", start, PerSecond)
	lim.SetLimits(Limits{PerSecond: 10, PerCaller: 2, Total: 4}, start)
	now := start.Add(100 * time.Millisecond)
	enter(t, lim, "a", now, "")
	enter(t, lim, "a", now.Add(time.Second), PerCaller)
	lim.SetLimits(Limits{PerSecond: 10, PerCaller: 1, Total: 1}, now)
	enter(t, lim, "b", now, Total)
	lim.Release("a") // active calls continue
	lim.Release("a")
	enter(t, lim, "b", now, "")
}

func TestDefaults(t *testing.T) {
	if lim := New(Limits{}); lim.limits.PerSecond < 1000 || lim.limits.PerCaller < 100 || lim.limits.Total <= lim.limits.PerCaller {
		t.Errorf("%+v", lim.limits)
	}
}

// TestOverloadedCPUs: the Limiter admits fewer calls, but always some, and all of them
// again later.
func TestOverloadedCPUs(t *testing.T) {
	var wait time.Duration
	least := minAllowed * cpulimit.CPUs()
	lim := New(Limits{PerSecond: 1 << 20, PerCaller: 1 << 20, Total: 8 * least})
	lim.wait = func() time.Duration { return wait }
	now := start
	step := func() {
		now = now.Add(adaptPause)
		if lim.Acquire("a", 0, now) == nil {
			lim.Release("a")
		}
	}
	for range 4 * least {
		enter(t, lim, "a", now, "")
	}
	wait = maxCPUWait
	step()
	enter(t, lim, "a", now, "") // the longest wait that is allowed
	lim.Release("a")
	wait++
	step()
	enter(t, lim, "a", now, CPU)
	if lim.allowed != 3*least {
		t.Errorf("%d are allowed, want %d", lim.allowed, 3*least)
	}
	for range 20 {
		step()
	}
	if lim.allowed != least {
		t.Errorf("%d are allowed, want %d", lim.allowed, least)
	}
	wait = 0
	for range 60 {
		step()
	}
	if lim.allowed != lim.limits.Total {
		t.Errorf("%d are allowed, want %d", lim.allowed, lim.limits.Total)
	}
	wait = time.Hour
	step()
	now = now.Add(2 * staleAfter)
	step() // the measurement is stale
	if lim.allowed != lim.limits.Total {
		t.Errorf("%d are allowed after a pause, want %d", lim.allowed, lim.limits.Total)
	}
}

// TestCPUWait reads Go's scheduling latencies: with more work than CPUs, work waits for
// a CPU.
func TestCPUWait(t *testing.T) {
	w := newCPUWait()
	w.since()
	if w.last == nil {
		t.Fatalf("Go no longer has %s", schedulingWaits)
	}
	waitForWork(w)
	if got := w.waited(); got <= 0 {
		t.Errorf("waited for %v", got)
	}
}

// TestWaitsOfAnIdleProcess: the waits of an idle process do not count as a lack of CPUs.
// With one P, a goroutine that waits for the disk delays all others.
func TestWaitsOfAnIdleProcess(t *testing.T) {
	w := newCPUWait()
	now, used := start, time.Duration(0)
	w.now = func() time.Time { return now }
	w.used = func() (time.Duration, bool) { return used, true }
	w.cpus = func() float64 { return 0.5 } // a quota below GOMAXPROCS
	busy := func(wall, cpu time.Duration) bool {
		now, used = now.Add(wall), used+cpu
		return w.busy()
	}
	busy(0, 0)
	for _, tt := range []struct {
		cpu  time.Duration
		want bool
	}{{time.Millisecond, false}, {4 * time.Millisecond, false}, {6 * time.Millisecond, true}, {10 * time.Millisecond, true}} {
		if got := busy(20*time.Millisecond, tt.cpu); got != tt.want {
			t.Errorf("%v of 10 ms of CPU time used: busy %v", tt.cpu, got)
		}
	}
	w.used = func() (time.Duration, bool) { return 0, false }
	if !busy(20*time.Millisecond, 0) {
		t.Error("waits do not count although the CPU time is unknown")
	}
	w.used = func() (time.Duration, bool) { return used, true }
	waitForWork(w)
	w.busy()
	now = now.Add(time.Hour)
	if got := w.since(); got != 0 {
		t.Errorf("an idle process waited for %v", got)
	}
}

func TestCPUTime(t *testing.T) {
	before, known := cpuTime()
	if !known {
		t.Skip("this system does not report the CPU time")
	}
	for sum, n := 0, 0; ; n++ {
		sum += n * n
		if after, _ := cpuTime(); after > before {
			return
		}
	}
}

// waitForWork starts so much work that it waits for CPUs.
func waitForWork(w *cpuWait) {
	w.waited() // discard earlier waits
	var busy sync.WaitGroup
	sum := make([]int, 64*cpulimit.CPUs())
	for i := range sum {
		busy.Go(func() {
			for n := range 100_000 {
				sum[i] += n
			}
		})
	}
	busy.Wait()
}

// TestReserve: any number of callers with many calls leave room for a caller with few.
func TestReserve(t *testing.T) {
	lim := newLimiter(Limits{PerSecond: 1 << 20, PerCaller: 256, Total: 2048})
	for i := range 8 {
		for range 256 {
			lim.Acquire(fmt.Sprint("many", i), 0, start)
		}
	}
	if most := 2048 - 2048/reservedShare + 256/quietShare; lim.total > most {
		t.Errorf("callers with many calls have %d active calls", lim.total)
	}
	enter(t, lim, "many0", start, Total)
	for range 8 { // PerCaller / 16, or less on one CPU
		enter(t, lim, "quiet", start, "")
	}
	enter(t, lim, "another", start, "")
	lim.allowed = lim.total // the CPUs are overloaded as well
	enter(t, lim, "third", start, "")
	enter(t, lim, "many0", start, Total)
	lim.allowed = lim.total - lim.total/reservedShare
	enter(t, lim, "another", start, CPU) // has an active call
	enter(t, lim, "fifth", start, "")
	lim.allowed = lim.total / 2
	enter(t, lim, "sixth", start, CPU)
	lim.allowed = lim.limits.Total
	lim.Release("many0")
	if r := lim.Check("many0", 0, start); r == nil || r.Limit != Total {
		t.Errorf("Check returned %v", r)
	}
	if r := lim.Check("fourth", 0, start); r != nil {
		t.Errorf("Check returned %v", r)
	}
	if lim.callers["fourth"].calls != 0 {
		t.Error("Check counted a call")
	}
}

func TestConcurrentUse(t *testing.T) {
	lim := newLimiter(Limits{PerSecond: 1 << 20, PerCaller: 2, Total: 5})
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			name := fmt.Sprint(i % 4)
			for n := range 1000 {
				now := start.Add(time.Duration(n) * time.Millisecond)
				if lim.Acquire(name, 0, now) == nil {
					lim.Release(name)
				}
				if n%100 == 0 {
					lim.SetLimits(Limits{PerSecond: 1 << 20, PerCaller: 2, Total: 4 + n%2}, now)
				}
			}
		})
	}
	callers.Wait()
	if lim.total != 0 {
		t.Errorf("%d calls are still active", lim.total)
	}
}

func BenchmarkAcquire(b *testing.B) {
	lim := New(Limits{PerSecond: 1 << 20})
	b.ReportAllocs()
	for b.Loop() {
		if lim.Acquire("spiffe://example.org/connect/worker-1", 0, time.Now()) == nil {
			lim.Release("spiffe://example.org/connect/worker-1")
		}
	}
}
