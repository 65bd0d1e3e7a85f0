//go:build !linux

package egress

import (
	"syscall"
	"time"
)

// setUserTimeout does nothing. On these systems only HTTP/2 pings detect a dead
// connection.
func setUserTimeout(syscall.RawConn, time.Duration) {}
