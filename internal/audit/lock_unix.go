//go:build unix

package audit

import (
	"errors"
	"os"
	"syscall"
)

// lock takes the advisory lock that every Log holds on its open file. The kernel releases
// it when the process ends, even after a crash.
func lock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return errLocked
	}
	return err
}

// removed reports whether the open file has no name left, so that its content is lost when
// it is closed.
func removed(f *os.File) bool {
	var stat syscall.Stat_t
	err := syscall.Fstat(int(f.Fd()), &stat)
	return err == nil && stat.Nlink == 0
}
