package provider

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// ErrCallersShare says, in the chain of an error, that a Fetch was refused because
// its caller's share of the way to the store is used up. Another caller's Fetch of
// the same secret may succeed.
var ErrCallersShare = errors.New("provider: the caller's share of the reads of this store is used up")

// maxJoined bounds the callers that one Fetch is made for, as far as its turn is
// concerned.
const maxJoined = 16

// Callers are the callers on whose behalf one Fetch is made. Callers share a store's
// limiter: each has its own queue there. When another caller joins, the Fetch takes its
// turn in whichever of the callers' queues that comes first. It is safe for concurrent
// use.
type Callers struct {
	charged string // the caller that the Fetch counts for

	mu      sync.Mutex
	names   []string // whose turns it may take; charged is the first
	limiter *limiter // where the Fetch waits or has waited; nil before that
	waiter  *waiter
}

// NewCallers returns the callers of a Fetch that the caller makes. The name is only
// compared.
func NewCallers(caller string) *Callers { return &Callers{charged: caller, names: []string{caller}} }

// Join adds the caller of other, a *Callers, which waits for the result of the Fetch as
// well. It reports whether the result applies to that caller: if not, a Fetch that ended
// with ErrCallersShare says nothing about that caller's share.
func (c *Callers) Join(other any) bool {
	o, ok := other.(*Callers)
	if !ok {
		return false
	}
	if o.charged == c.charged {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.Contains(c.names, o.charged) {
		return true
	}
	if len(c.names) == maxJoined || c.waiter != nil && !c.limiter.join(c.waiter, o.charged) {
		return false
	}
	c.names = append(c.names, o.charged)
	return true
}

// enter queues w at lim for all callers. cut is why waiting is over
// before it has begun, if it is.
func (c *Callers) enter(lim *limiter, w *waiter, again bool, cut error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limiter, c.waiter = lim, w
	if err := lim.enter(w, c.names, again, cut); err != nil {
		return err
	}
	return nil
}

type callersKey struct{}

// WithCallers returns a context whose Fetch is charged to these callers. Fetches
// without any are those of one nameless caller.
func WithCallers(ctx context.Context, c *Callers) context.Context {
	return context.WithValue(ctx, callersKey{}, c)
}

func callersOf(ctx context.Context) *Callers {
	if c, ok := ctx.Value(callersKey{}).(*Callers); ok {
		return c
	}
	return NewCallers("")
}
