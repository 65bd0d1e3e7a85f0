//go:build !unix

package providertest

import "time"

// processorTime is not known here.
func processorTime() time.Duration { return 0 }
