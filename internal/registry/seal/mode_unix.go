//go:build unix

package seal

import (
	"io/fs"
	"os"
	"syscall"
)

// tooOpen says what is wrong with who may read a key file. The rule is
// PostgreSQL's for its key file: the owner alone or, where the file is root's and
// the process is not (a mounted Kubernetes secret), its group too.
func tooOpen(info fs.FileInfo) string {
	mode := info.Mode().Perm()
	s, ok := info.Sys().(*syscall.Stat_t)
	roots := ok && s.Uid == 0 && os.Geteuid() != 0
	switch {
	case mode&0o027 != 0, mode&0o040 != 0 && !roots:
		return "may be read or written by others than its owner; run chmod 600 on it, or 640 where it belongs to root"
	default:
		return ""
	}
}
