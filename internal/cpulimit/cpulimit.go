// Package cpulimit tells how many CPUs the process may use, and gives Go's scheduler
// one processor more than that.
//
// It knows nothing of what the CPUs are used for.
package cpulimit

import (
	"math"
	"os"
	"runtime"
)

// atStart is Go's own choice, or the environment's.
var atStart = runtime.GOMAXPROCS(0)

// CPUs returns how many CPUs the process may use, at least 1: GOMAXPROCS as it was
// before AddProcessor.
func CPUs() int { return atStart }

// AddProcessor sets GOMAXPROCS to one more than the CPUs, unless the environment sets
// GOMAXPROCS. A goroutine that is in fsync keeps its processor (P) until Go's monitor
// takes it away, which can last 10 ms: on a single CPU, every other goroutine waits
// meanwhile although the CPU is idle. Go no longer follows changes of the quota then.
func AddProcessor() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(processors(atStart, Quota()))
	}
}

// processors is GOMAXPROCS for so many CPUs as Go counts them and such a quota.
func processors(cpus int, quota float64) int {
	return max(cpus, int(min(float64(cpus), math.Ceil(quota)))+1)
}
