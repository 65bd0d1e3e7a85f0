package watch

import (
	"container/heap"
	"math/rand/v2"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// target is one watched secret. Hub.mu guards it.
type target struct {
	key Key
	ref secret.Ref // without JSON key and decoding
	// generated is that of the decisions, and kept means that Hub.kept has the target.
	generated, kept bool
	items           []*item
	load            Key // see Hub.loads
	// allowed is the number of items whose callers may watch. Without any, the target is
	// not read.
	allowed int

	// The outcome of the last read that counts. known is false before the first one.
	known     bool
	version   string
	err       *secret.Error // nil if version is valid
	readAt    time.Time     // the start of the read
	expiresAt time.Time
	lastEnd   time.Time // expiresAt of the version before
	revision  string    // the integration's ReadRevision of the read
	learnedAt time.Time // when the Hub learned of the version
	// failingSince is the start of the first failed read since the last success; zero if
	// the last read did not fail.
	failingSince time.Time

	readDue, leadDue time.Time // when to read, and when watchers are told of the end; zero for never
	index            int       // in the heap, -1 if absent
	queuedBy         []authz.Principal
	byClock          bool          // the clock wants the read that waits
	interval         time.Duration // after which it is read again
	poll             polling
	scheme           string    // Decision.Scheme
	hintedAt         time.Time // when a read was asked for that is due or waits; zero for none
	startedAt        time.Time // of the last read that the Hub has begun
	running          bool
	again            bool // read again after the running read
}

const (
	// minReadInterval is the minimum time between the starts of two reads of a target.
	minReadInterval = time.Second
	// retryInterval is the time after which a failed read is repeated, at first.
	retryInterval = 5 * time.Second
	// outageTime is how long reads must fail before watchers of a secret that was read
	// before are told. A shorter outage does not concern them: they have the value.
	outageTime = 30 * time.Second
)

// markItems marks all items.
func (t *target) markItems() {
	for _, it := range t.items {
		it.stream.mark(it)
	}
}

// observe takes over the outcome of a read, and marks the items if it differs from the last
// one. It requires the lock.
func (h *Hub) observe(t *target, load *cache.Load) {
	if t.known && load.ReadAt.Before(t.readAt) {
		return
	}
	now := time.Now()
	load = t.checkEnd(load)
	if t.known && load.Err == nil && t.version != "" && t.version != load.Version && t.revision == load.Key.Revision && t.key.Version == "" {
		h.cfg.Changed(t.key.Integration, t.load.Store, t.ref.Name)
	}
	turn := Alone
	if load.Err == nil && t.allowed > 0 && !t.generated {
		turn = h.cfg.Share(t.load, t.scheme, load.Version, load.ReadAt, max(t.interval, minReadInterval))
	}
	interval := t.pause(turn)
	if load.Err == nil {
		h.succeeded(t, load, now)
	} else {
		interval = h.failed(t, load, now, interval)
	}
	if load.ReadAt.Before(t.hintedAt) {
		return // the read that was asked for is still to come
	}
	t.hintedAt = time.Time{}
	t.poll.refused, t.poll.outage = false, load.Err != nil && load.Err.Reason.IsOutage()
	due := h.pollDue(t, t.readAfter(load.ReadAt, interval, now), now)
	switch {
	case t.kept && !t.valid(now):
		h.unkeep(t)
		return
	case t.generated:
		due = t.generatedDue(due, now)
	}
	if t.allowed == 0 && !t.kept {
		due = time.Time{}
	}
	h.schedule(t, due)
}

// readAfter returns when a target is due that was read at a time: after a pause, but when the
// validity of its version ends.
func (t *target) readAfter(readAt time.Time, pause time.Duration, now time.Time) time.Time {
	due := readAt.Add(pause)
	if earliest := now.Add(minReadInterval); due.Before(earliest) {
		due = earliest
	}
	if !t.expiresAt.IsZero() && t.expiresAt.After(now) && t.expiresAt.Before(due) {
		due = t.expiresAt
	}
	return due
}

func (h *Hub) succeeded(t *target, load *cache.Load, now time.Time) {
	differs := !t.known || t.err != nil || t.version != load.Version || !t.expiresAt.Equal(load.ExpiresAt) || t.revision != load.Key.Revision
	t.revision = load.Key.Revision
	if !t.known || t.version != load.Version {
		t.learnedAt, t.lastEnd = now, t.expiresAt
	}
	t.known, t.version, t.err, t.readAt, t.expiresAt, t.failingSince = true, load.Version, nil, load.ReadAt, load.ExpiresAt, time.Time{}
	t.leadDue = time.Time{}
	if !t.expiresAt.IsZero() && !h.near(t, now) {
		t.leadDue = t.expiresAt.Add(-h.lead(t))
	}
	if differs {
		t.markItems()
	}
}

// failed takes over a failed read, and returns the time until the next read.
func (h *Hub) failed(t *target, load *cache.Load, now time.Time, interval time.Duration) time.Duration {
	if t.failingSince.IsZero() {
		t.failingSince = load.ReadAt
	}
	outage := load.Err.Reason.IsOutage()
	failing := now.Sub(t.failingSince)
	if outage {
		interval = min(interval, max(retryInterval, failing/2, load.Err.RetryAfter))
	}
	if outage && t.known && t.err == nil && failing < outageTime {
		return interval
	}
	differs := !t.known || t.err == nil || t.err.Reason != load.Err.Reason || t.revision != load.Key.Revision
	t.revision = load.Key.Revision
	t.known, t.err, t.readAt, t.expiresAt, t.leadDue = true, load.Err, load.ReadAt, time.Time{}, time.Time{}
	if differs {
		t.markItems()
	}
	return interval
}

// pause returns the time until the next read: up to a tenth less than the interval, so that
// the reads of secrets that were watched together spread out. The replica whose turn it is
// reads so much earlier than the others that they usually learn of its read before theirs.
func (t *target) pause(turn Turn) time.Duration {
	least, most := 0, 100
	switch turn {
	case Mine:
		least, most = 50, 100
	case Others:
		least, most = 0, 20
	}
	d := int64(max(t.interval, minReadInterval))
	return time.Duration(d - d*int64(least)/1000 - rand.Int64N(d*int64(most-least)/1000+1)) //nolint:gosec // spreads load
}

// allow notes that an item's caller may watch, and begins to read the target. It requires
// the lock.
func (h *Hub) allow(it *item, d *Decision) {
	t := it.target
	t.interval, t.generated, t.scheme = d.Interval, d.Generated, d.Scheme
	t.poll.every = d.Poll
	h.route(t, Key{t.key.Integration, d.Store, t.ref.Name, t.ref.Version})
	if it.allowed {
		if t.known && t.revision != d.ReadRevision { // the integration reads other stores now
			h.readSoon(t)
		}
		return
	}
	it.allowed = true
	t.allowed++
	select {
	case h.opened <- struct{}{}:
	default:
	}
	if t.allowed == 1 && !h.resume(t) {
		// While no caller was allowed, the target learned nothing. The read may be answered
		// from the cache.
		t.known = false
	}
	switch {
	case t.known && t.revision != d.ReadRevision: // of a target that was kept
		h.readSoon(t)
	case !t.known:
		h.enqueue(t, it.stream.who)
		h.poke()
	}
}

// disallow notes that an item's caller may not watch any more. The target is not read
// without a caller that may. It requires the lock.
func (h *Hub) disallow(it *item) {
	if !it.allowed {
		return
	}
	it.allowed = false
	if it.target.allowed--; it.target.allowed == 0 && !h.keep(it.target) {
		it.target.hintedAt = time.Time{}
		h.route(it.target, Key{})
		h.schedule(it.target, time.Time{})
	}
}

// route sets the loads that a target learns from; the zero Key for none. It requires the
// lock.
func (h *Hub) route(t *target, load Key) {
	if t.load == load {
		return
	}
	removeTarget(h.loads, t.load, t)
	removeTarget(h.names, t.load.withoutVersion(), t)
	if t.load = load; load == (Key{}) {
		return
	}
	addTarget(h.loads, load, t)
	addTarget(h.names, load.withoutVersion(), t)
}

func (k Key) withoutVersion() Key {
	k.Version = ""
	return k
}

func addTarget(m map[Key]map[*target]struct{}, k Key, t *target) {
	if m[k] == nil {
		m[k] = make(map[*target]struct{})
	}
	m[k][t] = struct{}{}
}

func removeTarget(m map[Key]map[*target]struct{}, k Key, t *target) {
	delete(m[k], t)
	if len(m[k]) == 0 {
		delete(m, k)
	}
}

// readSoon makes a target due, or has it read again after the running read. It requires the
// lock.
func (h *Hub) readSoon(t *target) {
	if t.allowed == 0 {
		return
	}
	if t.running {
		t.again = true
		return
	}
	due := time.Now()
	t.hintedAt = due
	if earliest := t.startedAt.Add(minReadInterval); earliest.After(due) {
		due = earliest
	}
	if t.readDue.IsZero() || due.Before(t.readDue) {
		h.schedule(t, due)
	}
}

// schedule sets when to read a target; the zero time for never. It requires the lock.
func (h *Hub) schedule(t *target, readDue time.Time) {
	t.readDue = readDue
	if readDue.IsZero() && (t.allowed == 0 || t.leadDue.IsZero()) {
		if t.index >= 0 {
			heap.Remove(&h.due, t.index)
		}
		return
	}
	if t.index >= 0 {
		heap.Fix(&h.due, t.index)
	} else {
		heap.Push(&h.due, t)
	}
	if t.index == 0 {
		h.poke()
	}
}

// next returns when the clock has to look at the target.
func (t *target) next() time.Time {
	if t.readDue.IsZero() || !t.leadDue.IsZero() && t.leadDue.Before(t.readDue) {
		return t.leadDue
	}
	return t.readDue
}

// dueHeap is the targets ordered by next.
type dueHeap []*target

func (q dueHeap) Len() int           { return len(q) }
func (q dueHeap) Less(i, j int) bool { return q[i].next().Before(q[j].next()) }
func (q dueHeap) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

func (q *dueHeap) Push(x any) {
	t := x.(*target)
	t.index = len(*q)
	*q = append(*q, t)
}

func (q *dueHeap) Pop() any {
	old := *q
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	t.index = -1
	return t
}
