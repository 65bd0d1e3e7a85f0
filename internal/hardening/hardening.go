// Package hardening asks the operating system to keep the process's memory to the
// process: out of core dumps, out of the reach of a debugger, and, if wanted, out of
// swap. It owns these requests and what is said when they are refused; it knows
// nothing of what the memory holds.
package hardening

import (
	"errors"
	"fmt"
	"log/slog"
)

// Config says what to ask for. The zero value is useful.
type Config struct {
	// LockMemory keeps all memory of the process, also what it gets later, out of
	// swap. Without it that depends on the machine.
	LockMemory bool
	// Logger gets what this platform does not support; nil discards.
	Logger *slog.Logger
}

// errUnsupported says that a platform has no such request.
var errUnsupported = errors.New("not supported on this platform")

// Apply hardens the process, for good. Call it before anything secret is read.
//
// On Linux the process is no longer dumpable (prctl(2), PR_SET_DUMPABLE): no core
// dump is made of it, not by a handler in core_pattern either, and only root may
// trace it or read /proc/PID/mem. Beside that its RLIMIT_CORE is zero. Both are
// allowed to every process, so that an error means that something forbids them, and
// the broker should not start. Elsewhere none of this exists, which is logged.
//
// Memory that cannot be locked although asked for is an error on every platform.
func Apply(cfg Config) error {
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	switch err := forbidDumps(); {
	case errors.Is(err, errUnsupported):
		log.Warn("this platform cannot keep the broker's memory out of core dumps and debuggers; run it on Linux for that")
	case err != nil:
		return fmt.Errorf("the process cannot be kept out of core dumps and debuggers: %w; allow prctl and setrlimit, as container runtimes do by default", err)
	}
	if !cfg.LockMemory {
		return nil
	}
	if err := lockMemory(); err != nil {
		return fmt.Errorf("memory.lock: %w", err)
	}
	return nil
}
