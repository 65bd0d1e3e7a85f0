//go:build !unix

package localfile

import "os"

// makePipe creates a directory, which is not a regular file either.
func makePipe(path string) error { return os.Mkdir(path, 0o700) }
