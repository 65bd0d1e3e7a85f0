// Package filestamp tells by a file's attributes whether it has changed.
package filestamp

import "time"

// Stamp is what the system says of a file without reading it. Equal ones mean
// the same content once the last change is older than the clock of the file system is coarse. The zero stamp is that
// of a file that cannot be looked at.
type Stamp struct {
	Device, Inode uint64 // zero where the system does not tell
	Size          int64
	Mode          uint32
	// In nanoseconds since 1970. Unlike Modified, which anybody can set, Changed
	// is when the system last saw content or attributes change. It is zero where
	// the system does not tell: what a poll overlooks there, Reload finds.
	Modified, Changed int64
}

// Before reports whether the file was last changed before then.
func (s Stamp) Before(then time.Time) bool {
	t := then.UnixNano()
	return s != Stamp{} && s.Modified < t && s.Changed < t
}
