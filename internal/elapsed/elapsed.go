// Package elapsed measures how long ago something happened where a clock that is
// set back, or a machine that is suspended, must not make it look recent.
package elapsed

import "time"

// Between returns the time from one instant to another by the monotonic or by the
// wall clock, whichever says more: the monotonic clock stands still while a machine
// is suspended, and the wall clock can be set back. It is negative only if both
// clocks say so. An instant without a monotonic reading is compared by the wall
// clock alone.
func Between(from, to time.Time) time.Duration {
	return max(to.Sub(from), to.Round(0).Sub(from.Round(0)))
}
