//go:build !unix

package providertest

import "time"

// processorTime returns 0, because the CPU time is not available on this system.
func processorTime() time.Duration { return 0 }
