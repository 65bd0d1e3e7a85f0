package admission

import (
	"math"
	"runtime/metrics"
	"time"

	"github.com/secretbroker/secretbroker/internal/cpulimit"
)

// schedulingWaits is the metric of how long runnable goroutines waited for a CPU.
const schedulingWaits = "/sched/latencies:seconds"

// minBusy is the part of the available CPU time above which a process counts as busy.
const minBusy = 0.5

// cpuWait measures how long work waits for a CPU. The number of active calls does not
// show that, because calls that wait for a store use no CPU.
//
// Goroutines also wait while the CPU is idle: a goroutine in fsync keeps its P for up to
// 10 ms, and the goroutines in the P's queue wait for it. So a wait counts only if the
// process was busy during the same period.
type cpuWait struct {
	sample []metrics.Sample
	last   []uint64

	// used returns the CPU time that the process has used so far; false if it is
	// unknown.
	used func() (time.Duration, bool)
	now  func() time.Time
	// cpus returns the number of CPUs that the process may use.
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

// since returns the 90th percentile of the waits since its previous call; 0 if the
// process was not busy.
func (w *cpuWait) since() time.Duration {
	waited, busy := w.waited(), w.busy()
	if !busy {
		return 0
	}
	return waited
}

// busy reports whether the process has used most of its CPU time since the previous
// call.
func (w *cpuWait) busy() bool {
	used, known := w.used()
	now := w.now()
	cpu, wall := used-w.lastUsed, now.Sub(w.lastTime)
	w.lastUsed, w.lastTime = used, now
	return !known || cpu.Seconds() >= minBusy*wall.Seconds()*w.cpus()
}

// waited returns the 90th percentile of the waits since its previous call.
func (w *cpuWait) waited() time.Duration {
	metrics.Read(w.sample)
	if w.sample[0].Value.Kind() != metrics.KindFloat64Histogram {
		return 0 // this version of Go lacks the metric
	}
	h := w.sample[0].Value.Float64Histogram()
	if w.last == nil {
		w.last = make([]uint64, len(h.Counts))
	}
	var all uint64
	for i, n := range h.Counts {
		n, w.last[i] = n-w.last[i], n
		h.Counts[i] = n // cpuWait owns it until the next Read
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
