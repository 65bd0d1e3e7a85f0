//go:build !cpuprofile

package app

// startProfile does nothing; see cpuprofile_on.go.
func startProfile() (stop func()) { return func() {} }
