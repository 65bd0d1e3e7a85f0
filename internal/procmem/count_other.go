//go:build !linux

package procmem

// Count returns ErrUnsupported on this platform.
func Count(int, ...[]byte) ([]int, error) { return nil, ErrUnsupported }
