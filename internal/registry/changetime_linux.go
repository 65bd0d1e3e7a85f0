package registry

import (
	"io/fs"
	"syscall"
	"time"
)

// changeTime is when the system last saw content or attributes of a file change,
// which unlike its modification time nobody can set.
func changeTime(info fs.FileInfo) time.Time {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return time.Unix(s.Ctim.Unix())
	}
	return time.Time{}
}
