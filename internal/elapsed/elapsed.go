// Package elapsed measures the time since an event. A clock that is set back, or a suspended
// machine, does not make the event appear recent.
package elapsed

import "time"

// Between returns the time from one instant to another, by the monotonic or by the wall
// clock, whichever is longer: the monotonic clock stops while a machine is suspended, and the
// wall clock can be set back. The result is negative only if it is negative by both clocks.
// If an instant has no monotonic reading, Between uses the wall clock only.
func Between(from, to time.Time) time.Duration {
	return max(to.Sub(from), to.Round(0).Sub(from.Round(0)))
}
