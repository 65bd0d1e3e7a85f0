//go:build linux || darwin

package sqlstore

import (
	"time"

	"golang.org/x/sys/unix"
)

// lastChange returns when the content or the attributes of the file at path last changed,
// or the zero time if there is no file. File systems count a rename as a change of
// attributes.
func lastChange(path string) time.Time {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return time.Time{}
	}
	modified, changed := time.Unix(st.Mtim.Unix()), time.Unix(st.Ctim.Unix())
	if changed.After(modified) {
		return changed
	}
	return modified
}
