package egress

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// setUserTimeout has the system give a connection up when what was sent has not
// been acknowledged for that long. Without it, requests go on being written to a
// connection whose other side has silently gone, until HTTP/2's pings find out or,
// over HTTP/1, for a quarter of an hour.
func setUserTimeout(c syscall.RawConn, d time.Duration) {
	// A system that will not do it is one where that takes longer.
	_ = c.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
}
