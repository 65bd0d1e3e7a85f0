// Package cpulimit determines how many CPUs the process may use, and gives Go's scheduler one
// processor (P) more than that.
//
// It does not know what the CPUs are used for.
package cpulimit

import (
	"math"
	"os"
	"runtime"
)

// atStart is GOMAXPROCS at the start: Go's default or the environment's setting.
var atStart = runtime.GOMAXPROCS(0)

// CPUs returns the number of CPUs that the process may use, at least 1: GOMAXPROCS before
// AddProcessor.
func CPUs() int { return atStart }

// AddProcessor sets GOMAXPROCS to one more than the CPUs, unless the environment sets
// GOMAXPROCS. A goroutine in fsync keeps its processor (P) until Go's monitor takes the
// processor away, which can last 10 ms. With a single P, every other goroutine waits
// meanwhile although the CPU is idle. Afterwards, Go no longer follows changes of the quota.
func AddProcessor() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(processors(atStart, Quota()))
	}
}

// processors returns GOMAXPROCS for a number of CPUs according to Go and a quota.
func processors(cpus int, quota float64) int {
	return max(cpus, int(min(float64(cpus), math.Ceil(quota)))+1)
}
