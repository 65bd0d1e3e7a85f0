//go:build !linux

package egress

import (
	"syscall"
	"time"
)

// setUserTimeout does nothing: elsewhere only the pings of HTTP/2 find out.
func setUserTimeout(syscall.RawConn, time.Duration) {}
