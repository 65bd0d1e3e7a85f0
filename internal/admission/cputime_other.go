//go:build !unix

package admission

import "time"

// cpuTime returns false: the CPU time is unknown on this system.
func cpuTime() (time.Duration, bool) { return 0, false }
