// Package procmem counts copies of bytes in the memory of a process, for tests that
// look for values where none should be. It knows nothing of what it looks for and is
// not part of the broker.
package procmem

import "errors"

// ErrUnsupported says that this platform does not show a process's memory.
var ErrUnsupported = errors.New("procmem: memory can be read on Linux only")

// Mask returns b with every bit turned. A test keeps what it looks for like that, so
// that it does not find itself. Masking again gives b back.
func Mask(b []byte) []byte {
	masked := make([]byte, len(b))
	for i, c := range b {
		masked[i] = ^c
	}
	return masked
}
