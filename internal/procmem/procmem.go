// Package procmem counts occurrences of byte strings in the memory of a process. Tests
// use it to verify that no copies of secret values remain. It is not part of the
// broker.
package procmem

import "errors"

// ErrUnsupported reports that the platform gives no access to a process's memory.
var ErrUnsupported = errors.New("procmem: memory can be read on Linux only")

// Mask returns b with every bit inverted. A test keeps the bytes that it searches for in
// this form, so that it does not find its own copy. Masking twice returns b.
func Mask(b []byte) []byte {
	masked := make([]byte, len(b))
	for i, c := range b {
		masked[i] = ^c
	}
	return masked
}
