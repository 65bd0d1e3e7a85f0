package registry

import "time"

// stamp is what the system says of a file without reading it. Equal ones mean
// the same content once they are settled, see isSettled. The zero stamp is that
// of a file that cannot be looked at.
type stamp struct {
	device, inode uint64 // zero where the system does not tell
	size          int64
	mode          uint32
	// In nanoseconds since 1970. Unlike modified, which anybody can set, changed
	// is when the system last saw content or attributes change. It is zero where
	// the system does not tell: what a poll overlooks there, Reload finds.
	modified, changed int64
}

// before reports whether the file was last changed before then.
func (s stamp) before(then time.Time) bool {
	t := then.UnixNano()
	return s != stamp{} && s.modified < t && s.changed < t
}
