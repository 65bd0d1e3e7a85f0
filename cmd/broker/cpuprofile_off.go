//go:build !cpuprofile

package main

// startProfile does nothing; see cpuprofile_on.go.
func startProfile() (stop func()) { return func() {} }
