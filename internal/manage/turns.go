package manage

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// maxAttempts is how often a change that names no etag is tried when others change
// the same integration meanwhile, if the call's deadline lets it. Changes through
// this broker take turns, so that those are changes through other replicas, or with
// an etag.
const maxAttempts = 100

// maxPause bounds the random wait before the next attempt. It is short beside a
// change and does not grow: who has just succeeded begins its next change at once,
// and would be ahead again of whoever waits longer for having failed.
const maxPause = 5 * time.Millisecond

// pause waits before another attempt, and reports whether ctx lets it.
func pause(ctx context.Context) bool {
	timer := time.NewTimer(rand.N(maxPause)) //nolint:gosec // a pause is no secret
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}

// turns lets one at a time change an integration. The zero turns is ready for use.
// It is safe for concurrent use.
type turns struct {
	mu sync.Mutex
	of map[string]*turn // by integration; only those that somebody has or waits for
}

type turn struct {
	held chan struct{} // has an element while somebody has the turn
	by   int           // who have it or wait for it
}

// take waits for the turn of an integration, until ctx ends. The caller calls done,
// unless there is an error.
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
