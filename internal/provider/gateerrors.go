package provider

import (
	"fmt"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// crowded is the error of a read for which there is no room.
func (g *gate) crowded() *secret.Error {
	g.count.refused.Add(1)
	e := secret.Errorf(secret.ReasonOverloaded, "too many reads of this store are under way; try again later").WithCause(ErrCallersShare)
	e.RetryAfter = time.Second
	return e
}

// outOfTime is the error of a read whose callers' turns do not come in time, or did
// not before cut. g.mu is held.
func (g *gate) outOfTime(before int, now time.Time, cut error) *secret.Error {
	g.count.refused.Add(1)
	cause := ErrCallersShare
	if cut != nil {
		cause = fmt.Errorf("%w: %w", ErrCallersShare, cut)
	}
	return g.late(before, now).WithCause(cause)
}

// late is the error of a read that would get no turn in time: the store's fault
// if it throttles, ours if not. g.mu is held.
func (g *gate) late(before int, now time.Time) *secret.Error {
	e := secret.Errorf(secret.ReasonOverloaded,
		"more secrets of this store are asked for than may be read at a time, and the call's turn would not come in time; try again later")
	if g.pace.slowed(now) {
		e = secret.Errorf(secret.ReasonStoreThrottled, "the store limits how often it is read, and the call's turn would not come in time; wait")
	}
	e.RetryAfter = min(g.turnIn(before, now), maxRetryAfter)
	return e
}

// dead is the error of a read of a store that does not answer. g.mu is held.
func (g *gate) dead(now time.Time) *secret.Error {
	e := secret.Errorf(secret.ReasonStoreUnavailable,
		"the store has not answered the last reads and is left alone for a moment; look at the store and the way to it")
	e.RetryAfter = max(g.opened.Add(openFor).Sub(now), time.Second)
	return e
}
