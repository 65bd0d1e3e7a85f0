// Package hardening prevents access to the process's memory from outside: through core
// dumps, through a debugger and, if configured, through swap. It owns the system calls
// and the errors that explain how to permit them. It does not know what the memory
// contains.
package hardening

import (
	"errors"
	"fmt"
	"log/slog"
)

// Config configures Apply. The zero value is useful.
type Config struct {
	// LockMemory keeps all current and future memory of the process out of swap.
	// Without it, the machine's configuration decides.
	LockMemory bool
	// Logger receives a warning on platforms without these protections. Nil discards
	// it.
	Logger *slog.Logger
}

// errUnsupported reports that the platform has no such system call.
var errUnsupported = errors.New("not supported on this platform")

// Apply hardens the process. It cannot be undone. Call it before reading any secret.
//
// On Linux, Apply makes the process non-dumpable (prctl(2), PR_SET_DUMPABLE): the
// kernel writes no core dump and does not pass one to a handler in core_pattern, and
// only root may trace the process or read /proc/PID/mem. Apply also sets RLIMIT_CORE
// to zero. Every process is allowed to do both, so an error means that a policy such
// as seccomp forbids it; the broker should not start then. On other platforms Apply
// logs a warning.
//
// If LockMemory is set and the memory cannot be locked, Apply returns an error on every
// platform.
func Apply(cfg Config) error {
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	switch err := forbidDumps(); {
	case errors.Is(err, errUnsupported):
		log.Warn("this platform cannot keep the broker's memory out of core dumps and debuggers; run it on Linux")
	case err != nil:
		return fmt.Errorf("cannot protect the process from core dumps and debuggers: %w; allow prctl and setrlimit, as container runtimes do by default", err)
	}
	if !cfg.LockMemory {
		return nil
	}
	if err := lockMemory(); err != nil {
		return fmt.Errorf("memory.lock: %w", err)
	}
	return nil
}
