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

// lastLoad is the latest finished load of a key: when it began and, if it
// failed, how, and until when callers are told so.
type lastLoad struct {
	key      Key
	started  time.Time
	err      *secret.Error // nil after a success
	failed   time.Time     // when err came
	errUntil time.Time
	until    time.Time // of no use from then on
}

// remember makes l be of use until t at least.
func (l *lastLoad) remember(t time.Time) {
	if l.until.Before(t) {
		l.until = t
	}
}

// failure is what a call is told before errUntil: the load's error with what is
// left of its RetryAfter, though never less than what this memory lasts.
func (l *lastLoad) failure(now time.Time) *secret.Error {
	if l.err.RetryAfter == 0 {
		return l.err
	}
	e := *l.err
	e.RetryAfter = max(e.RetryAfter-now.Sub(l.failed), l.errUntil.Sub(now))
	return &e
}

// recentLoads remembers the latest load of a bounded number of keys exactly,
// which ristretto would not. It holds no values. The zero value is ready for
// use; it is not safe for concurrent use.
type recentLoads struct {
	byKey map[Key]*list.Element // of *lastLoad
	order list.List             // oldest load first
}

// put replaces what is known of l.key.
func (r *recentLoads) put(l *lastLoad, now time.Time) {
	if r.byKey == nil {
		r.byKey = make(map[Key]*list.Element)
	}
	if old, ok := r.byKey[l.key]; ok {
		r.remove(old)
	}
	for first := r.order.Front(); first != nil; first = r.order.Front() {
		if len(r.byKey) < maxRecent && now.Before(first.Value.(*lastLoad).until) {
			break
		}
		r.remove(first)
	}
	if now.Before(l.until) {
		r.byKey[l.key] = r.order.PushBack(l)
	}
}

// get returns the latest load of key, or nil if it no longer matters.
func (r *recentLoads) get(key Key, now time.Time) *lastLoad {
	el, ok := r.byKey[key]
	if !ok {
		return nil
	}
	if l := el.Value.(*lastLoad); now.Before(l.until) {
		return l
	}
	r.remove(el)
	return nil
}

func (r *recentLoads) remove(el *list.Element) {
	delete(r.byKey, el.Value.(*lastLoad).key)
	r.order.Remove(el)
}
