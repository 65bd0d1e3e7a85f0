package admission

import (
	"math"
	"runtime/metrics"
	"time"

	"github.com/secretbroker/secretbroker/internal/cpulimit"
)

// schedulingWaits is how long goroutines that could run had to wait for a CPU.
const schedulingWaits = "/sched/latencies:seconds"

// minBusy is the part of its CPU time that a process has to use to be short of it.
const minBusy = 0.5

// cpuWait tells how long work waits for a CPU: what a number of calls under way
// cannot tell, because calls that wait for a store take none.
//
// Goroutines also wait to be scheduled while the CPU is idle: a goroutine that is
// in fsync keeps its P for up to 10 ms, and those that are queued on it wait. So a
// wait counts only if the process has used its CPU time meanwhile.
type cpuWait struct {
	sample []metrics.Sample
	last   []uint64

	// used is the CPU time of the process so far, false if it is not known.
	used func() (time.Duration, bool)
	now  func() time.Time
	// cpus is how much CPU time the process may use in a second, in seconds.
	cpus     func() float64
	lastUsed time.Duration
	lastTime time.Time
}

func newCPUWait() *cpuWait {
	cpus := min(float64(cpulimit.CPUs()), cpulimit.Quota())
	return &cpuWait{
		sample: []metrics.Sample{{Name: schedulingWaits}},
		used:   cpuTime,
		now:    time.Now,
		cpus:   func() float64 { return cpus },
	}
}

// since returns what nine of ten waits since the last time stayed below, 0 if the
// process was not short of CPU time.
func (w *cpuWait) since() time.Duration {
	waited, busy := w.waited(), w.busy()
	if !busy {
		return 0
	}
	return waited
}

// busy reports whether the process has used most of its CPU time since the last
// time.
func (w *cpuWait) busy() bool {
	used, known := w.used()
	now := w.now()
	cpu, wall := used-w.lastUsed, now.Sub(w.lastTime)
	w.lastUsed, w.lastTime = used, now
	return !known || cpu.Seconds() >= minBusy*wall.Seconds()*w.cpus()
}

// waited returns what nine of ten waits since the last time stayed below.
func (w *cpuWait) waited() time.Duration {
	metrics.Read(w.sample)
	if w.sample[0].Value.Kind() != metrics.KindFloat64Histogram {
		return 0 // a Go that no longer has it
	}
	h := w.sample[0].Value.Float64Histogram()
	if w.last == nil {
		w.last = make([]uint64, len(h.Counts))
	}
	var all uint64
	for i, n := range h.Counts {
		n, w.last[i] = n-w.last[i], n
		h.Counts[i] = n // ours until the next Read
		all += n
	}
	var seen uint64
	for i, n := range h.Counts {
		if seen += n; all > 0 && seen*10 >= all*9 {
			return seconds(h.Buckets[i+1])
		}
	}
	return 0
}

func seconds(s float64) time.Duration {
	if math.IsInf(s, 1) {
		return time.Hour
	}
	return time.Duration(s * float64(time.Second))
}
