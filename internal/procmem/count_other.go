//go:build !linux

package procmem

// Count is not supported here.
func Count(int, ...[]byte) ([]int, error) { return nil, ErrUnsupported }
