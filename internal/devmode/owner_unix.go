//go:build unix

package devmode

import (
	"io/fs"
	"os"
	"strconv"
	"syscall"
)

// foreignOwner returns the numeric id of a file's owner if the owner is neither root nor the
// user of the process, and "" otherwise.
func foreignOwner(info fs.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Uid == 0 || int(st.Uid) == os.Geteuid() {
		return ""
	}
	return strconv.FormatUint(uint64(st.Uid), 10)
}
