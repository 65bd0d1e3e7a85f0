//go:build unix

package dirstore

import (
	"syscall"
	"time"
)

// processorTime is what the process has used so far.
func processorTime() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r) // of oneself it cannot fail
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
