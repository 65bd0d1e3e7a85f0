package hardening

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

func forbidDumps() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_DUMPABLE): %w", err)
	}
	// User-space kernels such as gVisor may accept the request without effect.
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("prctl(PR_GET_DUMPABLE): %w", err)
	}
	if dumpable != 0 {
		return errors.New("prctl(PR_SET_DUMPABLE) had no effect")
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("setrlimit(RLIMIT_CORE): %w", err)
	}
	return nil
}

// errMayNotLock explains how to permit the locking of memory.
var errMayNotLock = errors.New("the broker may not lock its memory; give it the capability CAP_IPC_LOCK " +
	"(systemd: AmbientCapabilities=CAP_IPC_LOCK, Kubernetes: capabilities: {add: [IPC_LOCK]}) " +
	"or an unlimited RLIMIT_MEMLOCK (systemd: LimitMEMLOCK=infinity, Docker: --ulimit memlock=-1), or remove the setting")

func lockMemory() error {
	// Require an unlimited limit: with one that is only large enough now, allocations
	// would fail later and end the process.
	ok, err := mayLockAll()
	if err != nil {
		return err
	}
	if !ok {
		return errMayNotLock
	}
	// MCL_ONFAULT locks pages when they are first used. Go reserves far more address
	// space than it uses.
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return fmt.Errorf("mlockall: %w: %w", err, errMayNotLock)
	}
	return nil
}

// mayLockAll reports whether the process may lock memory without limit.
func mayLockAll() (bool, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return false, fmt.Errorf("getrlimit(RLIMIT_MEMLOCK): %w", err)
	}
	if limit.Cur == unix.RLIM_INFINITY {
		return true, nil
	}
	var capabilities [2]unix.CapUserData
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &capabilities[0]); err != nil {
		return false, fmt.Errorf("capget: %w", err)
	}
	return capabilities[0].Effective&(1<<unix.CAP_IPC_LOCK) != 0, nil
}
