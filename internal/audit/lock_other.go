//go:build !unix

package audit

import "os"

// lock does nothing: there is no advisory lock in the standard library here.
func lock(*os.File) error { return nil }

// removed reports false: an open file cannot be removed here.
func removed(*os.File) bool { return false }
