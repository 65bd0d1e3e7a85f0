//go:build !linux && !darwin

package sqlstore

import (
	"os"
	"time"
)

// lastChange is when the content of the file at path last changed. It is zero if
// there is no file.
func lastChange(path string) time.Time {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}
