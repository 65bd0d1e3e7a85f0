//go:build !unix

package keyfile

import "io/fs"

// tooOpen finds nothing where modes do not say who may read a file.
func tooOpen(fs.FileInfo) string { return "" }
