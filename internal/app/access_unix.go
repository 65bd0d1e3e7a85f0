//go:build unix

package app

import "golang.org/x/sys/unix"

// The permissions that access tests.
const (
	writeAccess  = unix.W_OK
	searchAccess = unix.X_OK
)

// access reports whether the process has the permissions to a file.
func access(path string, mode uint32) error { return unix.Access(path, mode) }
