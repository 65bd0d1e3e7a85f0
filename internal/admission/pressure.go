package admission

import (
	"math"
	"runtime/metrics"
	"time"
)

// schedulingWaits is how long goroutines that could run had to wait for a CPU.
const schedulingWaits = "/sched/latencies:seconds"

// cpuWait tells how long work waits for a CPU: what a number of calls under way
// cannot tell, because calls that wait for a store take none.
type cpuWait struct {
	sample []metrics.Sample
	last   []uint64
}

func newCPUWait() *cpuWait {
	return &cpuWait{sample: []metrics.Sample{{Name: schedulingWaits}}}
}

// since returns what nine of ten waits since the last time stayed below.
func (w *cpuWait) since() time.Duration {
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
