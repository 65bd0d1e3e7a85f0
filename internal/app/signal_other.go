//go:build !unix

package app

// ignoreFileSizeSignal does nothing: this system has no such signal.
func ignoreFileSizeSignal() {}
