//go:build !unix

package dirstore

import (
	"time"
)

func processorTime() time.Duration { return 0 }
