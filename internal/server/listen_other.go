//go:build !linux

package server

import "syscall"

// awaitData does nothing: there is no way to have the system wait for data.
func awaitData(_, _ string, _ syscall.RawConn) error { return nil }
