// Package filestamp detects changes of a file by its attributes, without reading it.
package filestamp

import "time"

// Stamp is a file's attributes. Equal stamps mean equal content if the last change is
// older than the resolution of the file system's clock. The zero Stamp means that the
// file's attributes cannot be read.
type Stamp struct {
	Device, Inode uint64 // zero where the system does not provide them
	Size          int64
	Mode          uint32
	// In nanoseconds since the Unix epoch. Unlike Modified, which any writer can set,
	// Changed is when the system last saw content or attributes change. It is zero where
	// the system does not provide it; there, Reload finds the changes that a poll misses.
	Modified, Changed int64
}

// Before reports whether the file was last changed before then.
func (s Stamp) Before(then time.Time) bool {
	t := then.UnixNano()
	return s != Stamp{} && s.Modified < t && s.Changed < t
}
