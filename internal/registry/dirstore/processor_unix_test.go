//go:build unix

package dirstore

import (
	"syscall"
	"time"
)

// processorTime returns the CPU time that the process has used.
func processorTime() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r) // cannot fail for this process
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
