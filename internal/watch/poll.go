package watch

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// Peeker is implemented by Readers that can ask some stores which version of a secret is
// current, without reading the secret. It must be safe for concurrent use.
type Peeker interface {
	// Peek returns the version that a Read would return, or another text while no version
	// can be read. can is false if the store or its policies do not permit to ask. The error
	// is that of the store, which may permit it later.
	Peek(ctx context.Context, integrationID string, ref secret.Ref) (state string, can bool, err error)
}

// polling is what a target needs for Decision.Poll. While polls succeed and find the version
// that is known, they take the place of reads by the clock.
type polling struct {
	every time.Duration // 0: the target is read
	// state is what the last poll found, and at when it began.
	state string
	at    time.Time
	// refused means that the store did not permit the last poll, and outage that the last
	// read failed without saying anything about the secret. Both end with the next read.
	refused, outage bool
}

// polls reports whether the next look at a target by the clock is a poll.
func (h *Hub) polls(t *target) bool {
	return h.peeker != nil && t.poll.every > 0 && t.known && !t.generated && !t.poll.refused && !t.poll.outage
}

// pollDue returns when to look at a target that a read by the clock would look at when it is
// due: at the next poll if it is earlier.
func (h *Hub) pollDue(t *target, due, now time.Time) time.Time {
	if !h.polls(t) {
		return due
	}
	every := max(t.poll.every, minReadInterval)
	if next := now.Add(every - time.Duration(rand.Int64N(int64(every)/10+1))); next.Before(due) { //nolint:gosec // spreads load
		return next
	}
	return due
}

// pollOnce asks which version of a target is current. It reports whether the target has to be
// read now.
func (h *Hub) pollOnce(ctx context.Context, t *target) (read bool) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	began := time.Now()
	state, can, err := h.peeker.Peek(ctx, t.key.Integration, t.ref)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.targets[t.key] != t || t.allowed == 0 || ctx.Err() == context.Canceled {
		return false
	}
	now := time.Now()
	readDue := t.readAt
	if t.err == nil && t.poll.at.After(readDue) {
		readDue = t.poll.at // a poll is as good as a read of a version that is known
	}
	readDue = readDue.Add(t.pause(Alone))
	switch {
	case !can:
		t.poll.refused = true
	case err == nil:
		same := t.err == nil && state == t.version || t.err != nil && state == t.poll.state
		t.poll.state, t.poll.at = state, began
		if !same {
			return true
		}
		if t.err == nil {
			readDue = now.Add(idleWait)
		}
		if !t.expiresAt.IsZero() && t.expiresAt.Before(readDue) {
			readDue = t.expiresAt
		}
	}
	if !readDue.After(now) {
		return true
	}
	due := h.pollDue(t, readDue, now)
	if earliest := now.Add(retryInterval); err != nil && can && due.Before(earliest) {
		due = earliest
	}
	h.schedule(t, due)
	return false
}
