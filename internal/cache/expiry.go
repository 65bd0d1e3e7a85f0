package cache

import (
	"container/heap"
	"math"
	"sync"
	"time"
)

// expiryQueue releases the secret of each entry at the moment the entry expires. It is
// safe for concurrent use.
//
// The expiry of ristretto cannot do that. It hides an expired entry, but releases it only
// in sweeps, which run seconds later and, after the wall clock has jumped ahead, not at
// all. It would also need 30 bytes per entry and read the clock for each hit. A timer per
// entry needs 150 bytes, an element of this heap ten.
//
// An entry is in the queue from add until it expires or remove is called, whichever comes
// first. During this time the queue holds a reference to the entry's secret.
type expiryQueue struct {
	began   time.Time    // the origin of entry.ends, on the monotonic clock
	expired func(*entry) // called for each entry after it has expired

	mu    sync.Mutex
	heap  entryHeap
	timer *time.Timer // for the first entry of the heap; nil before the first add
}

// add adds the entry for the duration keep, and retains its secret. The caller must hold a
// reference to the secret.
func (q *expiryQueue) add(e *entry, keep time.Duration) {
	e.secret.Retain()
	q.mu.Lock()
	defer q.mu.Unlock()
	e.ends = time.Since(q.began) + keep
	if e.ends < keep { // overflow
		e.ends = math.MaxInt64
	}
	heap.Push(&q.heap, e)
	if q.heap[0] == e {
		q.wake(keep)
	}
}

// remove removes the entry and releases the queue's reference, unless the entry has
// expired. It does not affect readers' references.
func (q *expiryQueue) remove(e *entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e.index != 0 {
		heap.Remove(&q.heap, int(e.index-1))
		e.secret.Release()
	}
}

// has reports whether the entry is in the queue.
func (q *expiryQueue) has(e *entry) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return e.index != 0
}

// keys returns the keys of the entries whose origin is selected. It looks at all entries.
func (q *expiryQueue) keys(selected func(origin) bool) (keys []Key) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range q.heap {
		if selected(e.origin.Value()) {
			keys = append(keys, e.key())
		}
	}
	return keys
}

// wake makes the timer call expire after d. The caller holds q.mu.
func (q *expiryQueue) wake(d time.Duration) {
	if q.timer == nil {
		q.timer = time.AfterFunc(d, q.expire)
	} else {
		q.timer.Reset(d)
	}
}

// expire removes all entries that have expired.
func (q *expiryQueue) expire() {
	for e := q.pop(); e != nil; e = q.pop() {
		q.expired(e)
	}
}

// pop removes and returns one entry that has expired. If there is none, it sets the timer
// and returns nil.
func (q *expiryQueue) pop() *entry {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.heap) == 0 {
		return nil
	}
	e := q.heap[0]
	if left := e.ends - time.Since(q.began); left > 0 {
		q.wake(left)
		return nil
	}
	heap.Pop(&q.heap)
	e.secret.Release() // under the lock, so that a concurrent remove returns only after the release
	return e
}

// stop stops the timer. The queue must be empty and remain empty.
func (q *expiryQueue) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.timer != nil {
		q.timer.Stop()
	}
}

// entryHeap is a heap with the entry that expires first at the front.
type entryHeap []*entry

// Len implements heap.Interface.
func (h entryHeap) Len() int { return len(h) }

// Less implements heap.Interface.
func (h entryHeap) Less(i, j int) bool { return h[i].ends < h[j].ends }

// Swap implements heap.Interface.
func (h entryHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = int32(i+1), int32(j+1) //nolint:gosec // no memory holds that many
}

// Push implements heap.Interface.
func (h *entryHeap) Push(x any) {
	e := x.(*entry)
	*h = append(*h, e)
	e.index = int32(len(*h)) //nolint:gosec // no memory holds that many
}

// Pop implements heap.Interface.
func (h *entryHeap) Pop() any {
	old := *h
	last := len(old) - 1
	e := old[last]
	e.index = 0
	old[last] = nil
	*h = old[:last]
	return e
}
