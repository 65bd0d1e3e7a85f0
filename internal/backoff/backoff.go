// Package backoff computes the pause before the next attempt after failures in a row: it
// doubles from one failure to the next, and is shortened at random so that replicas that
// failed together do not try again together.
package backoff

import (
	"math/rand/v2"
	"time"
)

// Limits are the pause after a first failure and the longest pause.
type Limits struct{ First, Longest time.Duration }

// After returns the pause after so many failures in a row, at least one.
func (l Limits) After(failures int) time.Duration {
	pause := l.First
	for ; failures > 1 && pause < l.Longest; failures-- {
		pause *= 2
	}
	return min(pause, l.Longest)
}

// Jitter returns the pause less up to a fifth of it, at random.
func Jitter(pause time.Duration) time.Duration {
	return pause - rand.N(pause/5+1) //nolint:gosec // spreads load, protects nothing
}
