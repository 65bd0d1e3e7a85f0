// Package budget limits the memory that work in progress may use, for each account and
// in total. It reserves a part for accounts that use little, so that accounts that use
// much cannot starve them.
//
// It counts bytes, and knows neither what they contain nor what an account is beyond its
// name.
package budget

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
)

// The limits, as fractions of the total.
const (
	// accountShare: one account may use 1/accountShare of the total.
	accountShare = 2
	// smallShare: an account that uses at most 1/smallShare of the total is small. Only
	// the total limits small accounts.
	smallShare = 32
	// For other accounts, Reserve fails at three quarters of the account's share and of
	// the total. Charge, which counts memory that is in use already, reports an excess
	// only above the account's whole share or seven eighths of the total. The difference
	// leaves room for the growth of work that has been admitted.
)

// Budget is a limited amount of memory. It is safe for concurrent use.
type Budget struct {
	mu       sync.Mutex
	total    int64
	used     int64
	refused  uint64
	accounts map[string]*Account
	waiting  []*waiter // in order of arrival
}

// waiter is a call of Wait that has not been granted yet.
type waiter struct {
	account *Account
	n       int64
	granted chan struct{} // closed while Budget.mu is held
}

// Stats contains values for metrics.
type Stats struct {
	// Total and Used are in bytes.
	Total, Used int64
	// Refused is the number of reservations that failed.
	Refused uint64
	// Waiting is the number of calls of Wait in progress.
	Waiting int
}

// New returns a Budget of total bytes.
func New(total int64) *Budget {
	return &Budget{total: total, accounts: make(map[string]*Account)}
}

// Stats returns the current values.
func (b *Budget) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Stats{Total: b.total, Used: b.used, Refused: b.refused, Waiting: len(b.waiting)}
}

// Account is the share of one user of the Budget. It is safe for concurrent use. The
// Budget keeps an account while a caller holds it or it uses memory.
type Account struct {
	// Open is a counter for the user of the account. The Budget does not use it.
	Open atomic.Int64

	budget *Budget
	name   string
	holds  int   // guarded by budget.mu
	used   int64 // guarded by budget.mu
}

// Account returns the account with that name. The caller must call Close when it no
// longer needs the account.
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

// Close ends one use of the account. Memory that the account uses still counts until it
// is released.
func (a *Account) Close() {
	a.budget.mu.Lock()
	defer a.budget.mu.Unlock()
	a.holds--
	a.forget()
}

// forget removes the account if it is not needed any more. The caller must hold the
// lock.
func (a *Account) forget() {
	if a.holds == 0 && a.used == 0 {
		delete(a.budget.accounts, a.name)
	}
}

// Reserve reserves n bytes. It returns false and reserves nothing if a limit would be
// exceeded.
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

// Fits reports whether Reserve(n) would succeed.
func (a *Account) Fits(n int64) bool {
	a.budget.mu.Lock()
	defer a.budget.mu.Unlock()
	return a.mayReserve(n)
}

// Charge counts n bytes that are in use already. It returns false if the account has
// exceeded its share, or if it is not small and the total is nearly used up. The bytes
// are counted in either case and must be released.
func (a *Account) Charge(n int64) bool {
	a.budget.mu.Lock()
	defer a.budget.mu.Unlock()
	a.take(n)
	b := a.budget
	return a.used <= b.total/accountShare && (b.used <= b.total/8*7 || a.used <= b.total/smallShare)
}

// Release returns n bytes to the Budget and grants waiting reservations.
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

// Wait waits until it can reserve n bytes. Waiting reservations are granted in order of
// arrival, except that one whose account has reached its limit does not delay those of
// other accounts. If ctx ends first, Wait returns its error and reserves nothing.
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

// mayReserve reports whether n more bytes are within the limits. For an account that uses
// nothing only the total counts; otherwise a request that is larger than the account's
// share could never be granted. The caller must hold the lock.
func (a *Account) mayReserve(n int64) bool {
	b := a.budget
	most, all := b.total/accountShare/4*3, b.total/4*3
	if a.used+n <= b.total/smallShare || a.used == 0 {
		most, all = b.total, b.total
	}
	return a.used+n <= most && b.used+n <= all
}

// take counts n bytes. The caller must hold the lock.
func (a *Account) take(n int64) {
	a.used += n
	a.budget.used += n
}
