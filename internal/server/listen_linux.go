package server

import "syscall"

// awaitSeconds is about how long the kernel keeps a connection without data. It drops
// it then, as the server would after handshakeTimeout.
const awaitSeconds = 10

// awaitData has the kernel accept a connection when its first bytes have come.
func awaitData(_, _ string, c syscall.RawConn) error {
	var err error
	if e := c.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_DEFER_ACCEPT, awaitSeconds)
	}); e != nil {
		return e
	}
	return err
}
