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

// Account says on whose behalf one Fetch is made. Callers share the way to a store:
// each has its own queue there, see gate. When another caller joins, the Fetch takes
// its turn in whichever of the callers' queues it comes first. It is safe for
// concurrent use.
type Account struct {
	caller string // that the Fetch counts for

	mu      sync.Mutex
	callers []string // whose turns it may take; caller is the first
	gate    *gate    // that the Fetch waits at, or has waited at
	waiter  *waiter
}

// NewAccount makes the account of one Fetch. The caller's name is only compared.
func NewAccount(caller string) *Account { return &Account{caller: caller, callers: []string{caller}} }

// Join says that the caller of another account, an *Account, waits for the Fetch as
// well. It reports whether that caller's share counts in what comes of it: if not, a
// Fetch that has ended with ErrCallersShare says nothing about that caller.
func (a *Account) Join(other any) bool {
	o, ok := other.(*Account)
	if !ok {
		return false
	}
	if o.caller == a.caller {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if slices.Contains(a.callers, o.caller) {
		return true
	}
	if len(a.callers) == maxJoined || a.waiter != nil && !a.gate.join(a.waiter, o.caller) {
		return false
	}
	a.callers = append(a.callers, o.caller)
	return true
}

// enter queues w at g for all callers of the account. cut is why waiting is over
// before it has begun, if it is.
func (a *Account) enter(g *gate, w *waiter, again bool, cut error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gate, a.waiter = g, w
	if err := g.enter(w, a.callers, again, cut); err != nil {
		return err
	}
	return nil
}

type accountKey struct{}

// WithAccount returns a context whose Fetch is charged to the account. Fetches
// without one are those of one caller.
func WithAccount(ctx context.Context, a *Account) context.Context {
	return context.WithValue(ctx, accountKey{}, a)
}

func accountOf(ctx context.Context) *Account {
	if a, ok := ctx.Value(accountKey{}).(*Account); ok {
		return a
	}
	return NewAccount("")
}
