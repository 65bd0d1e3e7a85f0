//go:build unix

package keyfile

import (
	"io/fs"
	"os"
	"syscall"
)

// tooOpen says what is wrong with who may read a file; "" if nothing.
func tooOpen(info fs.FileInfo) string { return tooOpenFor(info, os.Geteuid()) }

// tooOpenFor is tooOpen for a process of that user.
func tooOpenFor(info fs.FileInfo, process int) string {
	mode := info.Mode().Perm()
	s, ok := info.Sys().(*syscall.Stat_t)
	roots := ok && s.Uid == 0 && process != 0
	switch {
	case mode&0o027 != 0, mode&0o040 != 0 && !roots:
		return "may be read or written by others than its owner; run chmod 600 on it, or 640 where it belongs to root"
	default:
		return ""
	}
}
