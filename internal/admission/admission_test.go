package admission

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/cpulimit"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// newGate makes a Gate for which there are always CPUs.
func newGate(l Limits) *Gate {
	g := New(l)
	g.wait = func() time.Duration { return 0 }
	return g
}

// enter expects a call to be let in, or refused for want.
func enter(t *testing.T, g *Gate, name string, now time.Time, want Limit) *Refusal {
	t.Helper()
	r := g.Enter(name, 0, now)
	switch {
	case r == nil && want != "":
		t.Fatalf("%s is let in, want %s", name, want)
	case r != nil && r.Limit != want:
		t.Fatalf("%s is refused for %s, want %q", name, r.Limit, want)
	}
	return r
}

func TestPerSecond(t *testing.T) {
	g := newGate(Limits{PerSecond: 4})
	now := start
	call := func(name string, want Limit) *Refusal {
		t.Helper()
		r := enter(t, g, name, now, want)
		if r == nil {
			g.Leave(name)
		}
		return r
	}
	for range 4 { // as many at once
		call("a", "")
	}
	if r := call("a", PerSecond); r.RetryAfter != 250*time.Millisecond {
		t.Errorf("retry after %v", r.RetryAfter)
	}
	call("b", "") // is another caller
	now = now.Add(200 * time.Millisecond)
	if r := call("a", PerSecond); r.RetryAfter != 50*time.Millisecond {
		t.Errorf("retry after %v", r.RetryAfter)
	}
	now = now.Add(50 * time.Millisecond)
	call("a", "") // refused calls have cost nothing
	call("a", PerSecond)
	now = now.Add(time.Hour)
	for range 4 { // and no more is saved up
		call("a", "")
	}
	call("a", PerSecond)
}

func TestConcurrent(t *testing.T) {
	g := newGate(Limits{PerSecond: 100, PerCaller: 2, Total: 3})
	enter(t, g, "a", start, "")
	enter(t, g, "a", start, "")
	if r := enter(t, g, "a", start, PerCaller); r.RetryAfter != 0 {
		t.Errorf("retry after %v", r.RetryAfter)
	}
	enter(t, g, "b", start, "")
	enter(t, g, "c", start, Total)
	g.Leave("a")
	enter(t, g, "c", start, "")
	enter(t, g, "a", start, Total)
	g.Leave("c")
	enter(t, g, "a", start, "")
}

// TestCallersAreForgotten when they are as good as new, and not before: memory
// is bounded, and nobody gets a full bucket early.
func TestCallersAreForgotten(t *testing.T) {
	g := newGate(Limits{PerSecond: 10, PerCaller: 1})
	g.maxCallers = 3
	enter(t, g, "stays", start, "")
	for range 10 {
		enter(t, g, "empties", start, "")
		g.Leave("empties")
	}
	enter(t, g, "leaves", start, "")
	g.Leave("leaves")
	enter(t, g, "new", start, Callers)

	now := start.Add(sweepPause / 2)
	enter(t, g, "new", now, Callers) // looking again and again would be slow
	now = start.Add(sweepPause)
	enter(t, g, "new", now, "")
	if len(g.callers) != 2 || g.callers["stays"] == nil || g.callers["new"] == nil {
		t.Errorf("%d callers are known", len(g.callers))
	}
	enter(t, g, "stays", now, PerCaller)
	g.Leave("stays")
	enter(t, g, "stays", now, "")
}

func TestAnEmptyBucketIsNotForgotten(t *testing.T) {
	g := newGate(Limits{PerSecond: 1})
	enter(t, g, "a", start, "")
	g.Leave("a")
	// Had the sweep forgotten it, the bucket would be full again.
	g.swept = start.Add(-sweepPause)
	enter(t, g, "a", start, PerSecond)
}

func TestSetLimits(t *testing.T) {
	g := newGate(Limits{PerSecond: 1, PerCaller: 3, Total: 3})
	enter(t, g, "a", start, "")
	enter(t, g, "a", start, PerSecond)
	g.SetLimits(Limits{PerSecond: 10, PerCaller: 2, Total: 4}, start)
	now := start.Add(100 * time.Millisecond)
	enter(t, g, "a", now, "")
	enter(t, g, "a", now.Add(time.Second), PerCaller)
	g.SetLimits(Limits{PerSecond: 10, PerCaller: 1, Total: 1}, now)
	enter(t, g, "b", now, Total)
	g.Leave("a") // those under way go on
	g.Leave("a")
	enter(t, g, "b", now, "")
}

func TestDefaults(t *testing.T) {
	if g := New(Limits{}); g.limits.PerSecond < 1000 || g.limits.PerCaller < 100 || g.limits.Total <= g.limits.PerCaller {
		t.Errorf("%+v", g.limits)
	}
}

// TestOverloadedCPUs lets in fewer calls, but always some, and all again later.
func TestOverloadedCPUs(t *testing.T) {
	var wait time.Duration
	least := minAllowed * cpulimit.CPUs()
	g := New(Limits{PerSecond: 1 << 20, PerCaller: 1 << 20, Total: 8 * least})
	g.wait = func() time.Duration { return wait }
	now := start
	step := func() {
		now = now.Add(adaptPause)
		if g.Enter("a", 0, now) == nil {
			g.Leave("a")
		}
	}
	for range 4 * least {
		enter(t, g, "a", now, "")
	}
	wait = maxCPUWait
	step()
	enter(t, g, "a", now, "") // just not too long
	g.Leave("a")
	wait++
	step()
	enter(t, g, "a", now, CPU)
	if g.allowed != 3*least {
		t.Errorf("%d are allowed, want %d", g.allowed, 3*least)
	}
	for range 20 {
		step()
	}
	if g.allowed != least {
		t.Errorf("%d are allowed, want %d", g.allowed, least)
	}
	wait = 0
	for range 60 {
		step()
	}
	if g.allowed != g.limits.Total {
		t.Errorf("%d are allowed, want %d", g.allowed, g.limits.Total)
	}
	wait = time.Hour
	step()
	now = now.Add(2 * oldNews)
	step() // whatever was measured is long past
	if g.allowed != g.limits.Total {
		t.Errorf("%d are allowed after a pause, want %d", g.allowed, g.limits.Total)
	}
}

// TestCPUWait reads what Go measures: with more to do than there are CPUs, work
// waits for one.
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

// TestWaitsOfAnIdleProcess are no lack of CPUs: with one P, a goroutine that waits
// for the disk keeps all others waiting.
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
		t.Error("where CPU time is not known, waits no longer count")
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
		t.Skip("this system does not tell")
	}
	for sum, n := 0, 0; ; n++ {
		sum += n * n
		if after, _ := cpuTime(); after > before {
			return
		}
	}
}

// waitForWork has much work wait for CPUs.
func waitForWork(w *cpuWait) {
	w.waited() // what was before
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

// TestReserve: callers with many calls, however many of them there are, leave room
// for one that has few.
func TestReserve(t *testing.T) {
	g := newGate(Limits{PerSecond: 1 << 20, PerCaller: 256, Total: 2048})
	for i := range 8 {
		for range 256 {
			g.Enter(fmt.Sprint("many", i), 0, start)
		}
	}
	if most := 2048 - 2048/reservedShare + 256/quietShare; g.total > most {
		t.Errorf("callers with many calls have %d under way", g.total)
	}
	enter(t, g, "many0", start, Total)
	for range 8 { // PerCaller / 16, or less on one CPU
		enter(t, g, "quiet", start, "")
	}
	enter(t, g, "another", start, "")
	g.allowed = g.total // the CPUs are overloaded as well
	enter(t, g, "third", start, "")
	enter(t, g, "many0", start, Total)
	g.allowed = g.total - g.total/reservedShare
	enter(t, g, "another", start, CPU) // has one already
	enter(t, g, "fifth", start, "")
	g.allowed = g.total / 2
	enter(t, g, "sixth", start, CPU)
	g.allowed = g.limits.Total
	g.Leave("many0")
	if r := g.Look("many0", 0, start); r == nil || r.Limit != Total {
		t.Errorf("a look says %v", r)
	}
	if r := g.Look("fourth", 0, start); r != nil {
		t.Errorf("a look says %v", r)
	}
	if g.callers["fourth"].calls != 0 {
		t.Error("a look has taken a place")
	}
}

func TestConcurrentUse(t *testing.T) {
	g := newGate(Limits{PerSecond: 1 << 20, PerCaller: 2, Total: 5})
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			name := fmt.Sprint(i % 4)
			for n := range 1000 {
				now := start.Add(time.Duration(n) * time.Millisecond)
				if g.Enter(name, 0, now) == nil {
					g.Leave(name)
				}
				if n%100 == 0 {
					g.SetLimits(Limits{PerSecond: 1 << 20, PerCaller: 2, Total: 4 + n%2}, now)
				}
			}
		})
	}
	callers.Wait()
	if g.total != 0 {
		t.Errorf("%d calls are still under way", g.total)
	}
}

func BenchmarkEnter(b *testing.B) {
	g := New(Limits{PerSecond: 1 << 20})
	b.ReportAllocs()
	for b.Loop() {
		if g.Enter("spiffe://example.org/connect/worker-1", 0, time.Now()) == nil {
			g.Leave("spiffe://example.org/connect/worker-1")
		}
	}
}
