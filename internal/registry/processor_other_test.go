//go:build !unix

package registry

import "time"

func processorTime() time.Duration { return 0 }
