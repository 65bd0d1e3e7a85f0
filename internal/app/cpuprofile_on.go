//go:build cpuprofile

package app

import (
	"os"
	"runtime/pprof"
)

// startProfile writes a CPU profile to the file that SECRETBROKER_CPUPROFILE
// names until stop is called. Only a build with the tag cpuprofile has it, from
// which default.pgo is made: a profile reveals too much to be available in
// production.
func startProfile() (stop func()) {
	path := os.Getenv("SECRETBROKER_CPUPROFILE")
	if path == "" {
		return func() {}
	}
	f, err := os.Create(path)
	if err == nil {
		err = pprof.StartCPUProfile(f)
	}
	if err != nil {
		panic(err) // this build is only for profiles
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close() // a truncated profile is noticed when it is read
	}
}
