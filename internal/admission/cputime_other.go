//go:build !unix

package admission

import "time"

// cpuTime does not know.
func cpuTime() (time.Duration, bool) { return 0, false }
