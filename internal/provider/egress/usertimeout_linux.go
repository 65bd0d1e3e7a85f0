package egress

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// setUserTimeout makes the system close a connection when sent data has not been
// acknowledged for d. Without it, requests are written to a connection whose peer has
// silently disappeared until HTTP/2 pings detect it or, over HTTP/1, for a quarter of
// an hour.
func setUserTimeout(c syscall.RawConn, d time.Duration) {
	// If the system refuses the option, detection only takes longer.
	_ = c.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
}
