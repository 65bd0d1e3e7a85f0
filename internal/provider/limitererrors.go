package provider

import (
	"fmt"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// crowded returns the error of a read for which the queue has no room.
func (lim *limiter) crowded() *secret.Error {
	lim.count.refused.Add(1)
	e := secret.Errorf(secret.ReasonOverloaded, "too many reads of this store are under way; try again later").WithCause(ErrCallersShare)
	e.RetryAfter = time.Second
	return e
}

// outOfTime returns the error of a read whose callers' turns did not come, or will not
// come, before its deadline. cut, if not nil, is why waiting ended. lim.mu is held.
func (lim *limiter) outOfTime(before int, now time.Time, cut error) *secret.Error {
	lim.count.refused.Add(1)
	cause := ErrCallersShare
	if cut != nil {
		cause = fmt.Errorf("%w: %w", ErrCallersShare, cut)
	}
	return lim.late(before, now).WithCause(cause)
}

// late returns the error of a read whose turn would come too late. Its reason depends on
// whether the store's throttling or the broker's own limit is the cause. lim.mu is held.
func (lim *limiter) late(before int, now time.Time) *secret.Error {
	e := secret.Errorf(secret.ReasonOverloaded,
		"too many reads of this store are queued; this one cannot finish before the call's deadline; try again later")
	if lim.rate.slowed(now) {
		e = secret.Errorf(secret.ReasonStoreThrottled, "the store throttles the broker, and this read cannot start before the call's deadline; try again later")
	}
	e.RetryAfter = min(lim.turnIn(before, false, now), maxRetryAfter)
	return e
}

// dead returns the error of a read of a store whose breaker is open. lim.mu is held.
func (lim *limiter) dead(now time.Time) *secret.Error {
	e := secret.Errorf(secret.ReasonStoreUnavailable,
		"the store did not respond to the last reads, so the broker has stopped reading it for a few seconds; check the store and the network path to it")
	e.RetryAfter = max(lim.opened.Add(openFor).Sub(now), time.Second)
	return e
}
