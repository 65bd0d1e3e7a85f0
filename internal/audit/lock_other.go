//go:build !unix

package audit

import "os"

// lock does nothing: the standard library has no advisory lock for this system.
func lock(*os.File) error { return nil }

// removed reports false: this system does not remove open files.
func removed(*os.File) bool { return false }
