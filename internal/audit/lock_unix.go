//go:build unix

package audit

import (
	"errors"
	"os"
	"syscall"
)

// lock takes the advisory lock that every Log holds on its file until it closes
// it. The kernel frees it when the process ends, however it ends.
func lock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return errLocked
	}
	return err
}

// removed reports whether the open file has no name any more, so that what is
// written to it is lost.
func removed(f *os.File) bool {
	var stat syscall.Stat_t
	err := syscall.Fstat(int(f.Fd()), &stat)
	return err == nil && stat.Nlink == 0
}
