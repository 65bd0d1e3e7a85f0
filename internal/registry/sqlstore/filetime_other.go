//go:build !linux && !darwin

package sqlstore

import (
	"os"
	"time"
)

// lastChange returns when the content of the file at path last changed, or the zero time
// if there is no file.
func lastChange(path string) time.Time {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}
