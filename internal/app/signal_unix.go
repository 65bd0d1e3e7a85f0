//go:build unix

package app

import (
	"os/signal"
	"syscall"
)

// ignoreFileSizeSignal makes writes beyond the process's file size limit (ulimit
// -f) fail, as on a full disk, instead of ending the process.
func ignoreFileSizeSignal() { signal.Ignore(syscall.SIGXFSZ) }
