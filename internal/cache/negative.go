package cache

import (
	"container/list"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// maxNegative is how many loads a negativeCache remembers. Beyond that it forgets the
// oldest, which costs one read of the store, or a stale value that a call with a short
// deadline would have got.
const maxNegative = 10_000

// lastLoad is the latest finished load of a key: when it began and, if it failed,
// how.
type lastLoad struct {
	key     Key
	hash    uint64 // of key
	started time.Time
	until   time.Time // of no use from then on
	failure *failure  // nil after a success
}

// failure is how and when a load failed, and until when callers are told so without
// another one.
type failure struct {
	err  *secret.Error
	at   time.Time
	told time.Time
}

// remember makes l be of use until t at least.
func (l *lastLoad) remember(t time.Time) {
	if l.until.Before(t) {
		l.until = t
	}
}

// tell returns the error with what is left of its RetryAfter, though never less than
// what this memory lasts.
func (f *failure) tell(now time.Time) *secret.Error {
	if f.err.RetryAfter == 0 {
		return f.err
	}
	e := *f.err
	e.RetryAfter = max(e.RetryAfter-now.Sub(f.at), f.told.Sub(now))
	return &e
}

// negativeCache remembers how the latest load of a key went, so that a failure is not
// repeated for every call. It remembers a bounded number of keys exactly, which ristretto
// would not, and holds no values. The zero value is ready for use; it is not safe for
// concurrent use.
//
// Of two keys with the same hash it remembers one, and never takes it for the other.
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
func (n *negativeCache) get(h uint64, key *Key, now time.Time) *lastLoad {
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
