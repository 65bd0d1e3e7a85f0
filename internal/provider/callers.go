package provider

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// ErrCallersShare is in the chain of the error of a Fetch that was refused because its
// caller's share of the store's reads is used up. A Fetch of the same secret by another
// caller may succeed.
var ErrCallersShare = errors.New("provider: the caller's share of the reads of this store is used up")

// maxJoined bounds the callers in whose queues one Fetch waits.
const maxJoined = 16

// Callers are the callers on whose behalf one Fetch is made. Each caller has its own queue
// at a store's limiter. When another caller joins, the Fetch waits in both queues and
// starts with the turn that comes first. It is safe for concurrent use.
type Callers struct {
	charged string // the caller to which the Fetch is charged

	mu      sync.Mutex
	names   []string // in whose queues it waits; charged is the first
	limiter *limiter // where the Fetch waits or waited; nil before that
	waiter  *waiter
}

// NewCallers returns the callers of a Fetch made for one caller. Names are only compared.
func NewCallers(caller string) *Callers { return &Callers{charged: caller, names: []string{caller}} }

// Join adds the caller of other, a *Callers, which also waits for the result of the Fetch.
// It reports whether the result applies to that caller. If it does not, a Fetch that
// failed with ErrCallersShare does not mean that this caller's share is used up.
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

// enter queues w at lim for all callers. cut, if not nil, is why waiting has already
// ended.
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

// WithCallers returns a context whose Fetch is charged to these callers. Fetches without
// callers share one nameless caller.
func WithCallers(ctx context.Context, c *Callers) context.Context {
	return context.WithValue(ctx, callersKey{}, c)
}

func callersOf(ctx context.Context) *Callers {
	if c, ok := ctx.Value(callersKey{}).(*Callers); ok {
		return c
	}
	return NewCallers("")
}
