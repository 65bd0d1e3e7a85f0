//go:build unix

package keyfile

import (
	"io/fs"
	"os"
	"syscall"
)

// tooOpen describes permissions of a file that are too wide, "" if there are none.
func tooOpen(info fs.FileInfo) string { return tooOpenFor(info, os.Geteuid()) }

// tooOpenFor is tooOpen for a process of the given user.
func tooOpenFor(info fs.FileInfo, process int) string {
	mode := info.Mode().Perm()
	s, ok := info.Sys().(*syscall.Stat_t)
	roots := ok && s.Uid == 0 && process != 0
	switch {
	case mode&0o027 != 0, mode&0o040 != 0 && !roots:
		return "can be read or written by other users than its owner; run chmod 600 on it, or 640 if it belongs to root"
	default:
		return ""
	}
}
