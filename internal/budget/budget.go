// Package budget bounds the memory that work under way may take: of each account
// and of all together. A part of it is only for accounts that use little, so that
// those that use much cannot shut them out.
//
// It counts bytes and knows nothing of what they are; an account is a name to it.
package budget

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
)

// The bounds, as parts of the whole.
const (
	// accountShare: one account may use one in so many bytes.
	accountShare = 2
	// smallShare: an account that uses less than one in so many uses little.
	smallShare = 32
	// Reservations of accounts that use much stop at three quarters of what they
	// and all accounts may use. What is charged without asking goes on to the whole
	// of the account's share and to seven eighths of all.
)

// Budget is an amount of memory. It is safe for concurrent use.
type Budget struct {
	mu       sync.Mutex
	total    int64
	used     int64
	refused  uint64
	accounts map[string]*Account
	waiting  []*waiter // the longest first
}

// waiter is a Wait that has not been granted yet.
type waiter struct {
	account *Account
	n       int64
	granted chan struct{} // closed with the lock held
}

// Stats are a Budget's figures.
type Stats struct {
	// Total and Used are in bytes.
	Total, Used int64
	// Refused is how many reservations were refused.
	Refused uint64
	// Waiting is how many reservations wait.
	Waiting int
}

// New makes a Budget of total bytes.
func New(total int64) *Budget {
	return &Budget{total: total, accounts: make(map[string]*Account)}
}

// Stats returns the figures.
func (b *Budget) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Stats{Total: b.total, Used: b.used, Refused: b.refused, Waiting: len(b.waiting)}
}

// Account is what one user of the Budget uses. It is safe for concurrent use. It
// is known by its name while it is held or uses anything.
type Account struct {
	// Open is for the user's own count of what it has under way.
	Open atomic.Int64

	budget *Budget
	name   string
	holds  int   // with the lock
	used   int64 // with the lock
}

// Account returns the account of that name, which the caller holds until it calls
// Close.
func (b *Budget) Account(name string) *Account {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.accounts[name]
	if a == nil {
		a = &Account{budget: b, name: name}
		b.accounts[name] = a
	}
	a.holds++
	return a
}

// Close gives up one hold. What is used stays used until it is released.
func (a *Account) Close() {
	a.budget.mu.Lock()
	defer a.budget.mu.Unlock()
	a.holds--
	a.forget()
}

// forget makes the account unknown if nobody needs it. The lock is held.
func (a *Account) forget() {
	if a.holds == 0 && a.used == 0 {
		delete(a.budget.accounts, a.name)
	}
}

// Reserve takes n bytes if the account may have them now.
func (a *Account) Reserve(n int64) bool {
	a.budget.mu.Lock()
	defer a.budget.mu.Unlock()
	if !a.mayReserve(n) {
		a.budget.refused++
		return false
	}
	a.take(n)
	return true
}

// Fits reports whether Reserve would take n bytes.
func (a *Account) Fits(n int64) bool {
	a.budget.mu.Lock()
	defer a.budget.mu.Unlock()
	return a.mayReserve(n)
}

// Charge takes n bytes that are used already, and is false if the account has gone
// beyond its share, or uses much while little is left.
func (a *Account) Charge(n int64) bool {
	a.budget.mu.Lock()
	defer a.budget.mu.Unlock()
	a.take(n)
	b := a.budget
	return a.used <= b.total/accountShare && (b.used <= b.total/8*7 || a.used <= b.total/smallShare)
}

// Release gives n bytes back.
func (a *Account) Release(n int64) {
	b := a.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	a.used -= n
	b.used -= n
	a.forget()
	b.waiting = slices.DeleteFunc(b.waiting, func(w *waiter) bool {
		if !w.account.mayReserve(w.n) {
			return false
		}
		w.account.take(w.n)
		close(w.granted)
		return true
	})
}

// Wait takes n bytes as soon as the account may have them. Waits are granted in
// their order, but for those whose account has to wait longer than another. The
// error is that of ctx; nothing is taken then.
func (a *Account) Wait(ctx context.Context, n int64) error {
	b := a.budget
	b.mu.Lock()
	if a.mayReserve(n) {
		a.take(n)
		b.mu.Unlock()
		return nil
	}
	w := &waiter{account: a, n: n, granted: make(chan struct{})}
	b.waiting = append(b.waiting, w)
	b.mu.Unlock()
	select {
	case <-w.granted:
		return nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-w.granted:
		return nil
	default:
	}
	b.waiting = slices.DeleteFunc(b.waiting, func(other *waiter) bool { return other == w })
	b.refused++
	return ctx.Err()
}

// mayReserve reports whether n more bytes are within the bounds. An account that
// uses nothing may have any n that is there, so that no bound keeps it from going
// on for good. The lock is held.
func (a *Account) mayReserve(n int64) bool {
	b := a.budget
	most, all := b.total/accountShare/4*3, b.total/4*3
	if a.used+n <= b.total/smallShare || a.used == 0 {
		most, all = b.total, b.total
	}
	return a.used+n <= most && b.used+n <= all
}

// take counts n bytes. The lock is held.
func (a *Account) take(n int64) {
	a.used += n
	a.budget.used += n
}
