package cache

import (
	"container/list"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// maxRecent bounds the loads that are remembered. Beyond it the oldest is
// forgotten, which costs a read of the store, or a call in a hurry its stale
// value, and nothing else.
const maxRecent = 10_000

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

// recentLoads remembers the latest load of a bounded number of keys exactly,
// which ristretto would not. It holds no values. The zero value is ready for
// use; it is not safe for concurrent use.
//
// Of two keys with the same hash it remembers one, and never takes it for the other.
type recentLoads struct {
	byHash map[uint64]*list.Element // of *lastLoad
	order  list.List                // oldest load first
}

// put replaces what is known of l.key.
func (r *recentLoads) put(l *lastLoad, now time.Time) {
	if r.byHash == nil {
		r.byHash = make(map[uint64]*list.Element)
	}
	if old, ok := r.byHash[l.hash]; ok {
		r.remove(old)
	}
	for first := r.order.Front(); first != nil; first = r.order.Front() {
		if len(r.byHash) < maxRecent && now.Before(first.Value.(*lastLoad).until) {
			break
		}
		r.remove(first)
	}
	if now.Before(l.until) {
		r.byHash[l.hash] = r.order.PushBack(l)
	}
}

// get returns the latest load of key, or nil if it no longer matters.
func (r *recentLoads) get(h uint64, key *Key, now time.Time) *lastLoad {
	el, ok := r.byHash[h]
	if !ok {
		return nil
	}
	l := el.Value.(*lastLoad)
	if !now.Before(l.until) {
		r.remove(el)
		return nil
	}
	if l.key != *key {
		return nil
	}
	return l
}

func (r *recentLoads) remove(el *list.Element) {
	delete(r.byHash, el.Value.(*lastLoad).hash)
	r.order.Remove(el)
}
