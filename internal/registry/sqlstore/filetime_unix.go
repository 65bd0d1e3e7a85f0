//go:build linux || darwin

package sqlstore

import (
	"time"

	"golang.org/x/sys/unix"
)

// lastChange is when the content or the attributes of the file at path last changed;
// file systems count a change of its name, too. It is zero if there is no file.
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
