//go:build !unix

package localfile

import "os"

// makePipe makes something that is no file either.
func makePipe(path string) error { return os.Mkdir(path, 0o700) }
