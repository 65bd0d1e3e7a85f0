//go:build !unix

package devmode

import "io/fs"

// foreignOwner returns "": this system has no numeric owners.
func foreignOwner(fs.FileInfo) string { return "" }
