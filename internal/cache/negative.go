package cache

import (
	"container/list"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// maxNegative limits the number of loads in a negativeCache. Beyond that it removes the
// oldest. This costs one read of the store, or the stale value that a call with a short
// deadline would have got.
const maxNegative = 10_000

// lastLoad is the latest finished load of a key: when it began and its failure, if any.
type lastLoad struct {
	key     loadKey
	hash    uint64 // of key
	started time.Time
	until   time.Time // can be removed from then on
	failure *failure  // nil after a success
}

// failure is the error and time of a failed load. Until the given time, callers get the
// error without another load.
type failure struct {
	err   *secret.Error
	at    time.Time
	until time.Time
}

// remember keeps l at least until t.
func (l *lastLoad) remember(t time.Time) {
	if l.until.Before(t) {
		l.until = t
	}
}

// errorAt returns the error with the remaining RetryAfter, which is never shorter than the
// time until the next load is allowed.
func (f *failure) errorAt(now time.Time) *secret.Error {
	if f.err.RetryAfter == 0 {
		return f.err
	}
	e := *f.err
	e.RetryAfter = max(e.RetryAfter-now.Sub(f.at), f.until.Sub(now))
	return &e
}

// negativeCache keeps the result of the latest load of each key, so that a failing load is
// not repeated for every call. Unlike ristretto, it never drops a recent key at random. It
// keeps a bounded number of keys and no values. The zero value is ready for use; it is not
// safe for concurrent use.
//
// Of two keys with the same hash it keeps the later one, and never confuses them.
type negativeCache struct {
	byHash map[uint64]*list.Element // of *lastLoad
	order  list.List                // oldest load first
}

// put replaces what is known of l.key.
func (n *negativeCache) put(l *lastLoad, now time.Time) {
	if n.byHash == nil {
		n.byHash = make(map[uint64]*list.Element)
	}
	if old, ok := n.byHash[l.hash]; ok {
		n.remove(old)
	}
	for first := n.order.Front(); first != nil; first = n.order.Front() {
		if len(n.byHash) < maxNegative && now.Before(first.Value.(*lastLoad).until) {
			break
		}
		n.remove(first)
	}
	if now.Before(l.until) {
		n.byHash[l.hash] = n.order.PushBack(l)
	}
}

// get returns the latest load of key, or nil if it no longer matters.
func (n *negativeCache) get(h uint64, key *loadKey, now time.Time) *lastLoad {
	el, ok := n.byHash[h]
	if !ok {
		return nil
	}
	l := el.Value.(*lastLoad)
	if !now.Before(l.until) {
		n.remove(el)
		return nil
	}
	if l.key != *key {
		return nil
	}
	return l
}

func (n *negativeCache) remove(el *list.Element) {
	delete(n.byHash, el.Value.(*lastLoad).hash)
	n.order.Remove(el)
}
