//go:build !unix

package keyfile

import "io/fs"

// tooOpen returns "": file modes have no permissions on this system.
func tooOpen(fs.FileInfo) string { return "" }
