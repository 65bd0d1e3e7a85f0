package server

import "syscall"

// awaitSeconds is about how long the kernel keeps a connection without data before it drops
// the connection, as the server does after handshakeTimeout.
const awaitSeconds = 10

// awaitData makes the kernel pass a connection on when its first bytes have arrived.
func awaitData(_, _ string, c syscall.RawConn) error {
	var err error
	if e := c.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_DEFER_ACCEPT, awaitSeconds)
	}); e != nil {
		return e
	}
	return err
}
