//go:build !linux

package server

import "syscall"

// awaitData does nothing: this system cannot wait for data before it accepts.
func awaitData(_, _ string, _ syscall.RawConn) error { return nil }
