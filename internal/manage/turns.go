package manage

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// maxAttempts limits how often a change without etag is tried if other calls change the
// integration meanwhile. Changes through this broker take turns, so the other calls are
// changes through other replicas, or changes with an etag.
const maxAttempts = 100

// maxPause limits the random wait before the next attempt. It is short compared to a change
// and does not grow: a caller that has succeeded starts its next change at once, and would
// always overtake a caller that waits longer after each failure.
const maxPause = 5 * time.Millisecond

// pause waits before another attempt. It returns false if ctx ends.
func pause(ctx context.Context) bool {
	timer := time.NewTimer(rand.N(maxPause)) //nolint:gosec // not security-relevant
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}

// turns serializes the changes of each integration. The zero turns is ready for use. It is
// safe for concurrent use.
type turns struct {
	mu sync.Mutex
	of map[string]*turn // by integration; only those that a call has or waits for
}

type turn struct {
	held chan struct{} // has an element while a call has the turn
	by   int           // the number of calls that have it or wait for it
}

// take waits for the turn of an integration until ctx ends. Without an error, the caller
// must call done.
func (t *turns) take(ctx context.Context, id string) (done func(), err error) {
	t.mu.Lock()
	if t.of == nil {
		t.of = make(map[string]*turn)
	}
	mine := t.of[id]
	if mine == nil {
		mine = &turn{held: make(chan struct{}, 1)}
		t.of[id] = mine
	}
	mine.by++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if mine.by--; mine.by == 0 {
			delete(t.of, id)
		}
	}
	select {
	case mine.held <- struct{}{}:
		return func() { <-mine.held; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
