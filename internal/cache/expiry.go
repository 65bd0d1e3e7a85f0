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
// ristretto's own expiry cannot do that: it hides an entry that has expired, but releases
// it only in sweeps, which come seconds later and, after the wall clock jumped ahead, not
// at all. It would also take 30 bytes for each entry and a look at the clock for each hit.
// A timer for each entry takes 150 bytes, an element of this heap ten.
//
// An entry is in the queue from add until it expires or remove is called, whichever comes
// first. For that time the queue holds a reference to the entry's secret.
type expiryQueue struct {
	began   time.Time    // zero of entry.ends, by the monotonic clock
	expired func(*entry) // is called for each entry after it expired

	mu    sync.Mutex
	heap  entryHeap
	timer *time.Timer // for the first of the heap; nil before there was one
}

// add takes a reference to the entry's secret for keep at most. The caller has one
// already.
func (q *expiryQueue) add(e *entry, keep time.Duration) {
	e.secret.Retain()
	q.mu.Lock()
	defer q.mu.Unlock()
	e.ends = time.Since(q.began) + keep
	if e.ends < keep { // an overflow
		e.ends = math.MaxInt64
	}
	heap.Push(&q.heap, e)
	if q.heap[0] == e {
		q.wake(keep)
	}
}

// remove releases that reference unless the entry has expired. Readers keep theirs.
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

// wake has the timer call expire after d; q.mu is held.
func (q *expiryQueue) wake(d time.Duration) {
	if q.timer == nil {
		q.timer = time.AfterFunc(d, q.expire)
	} else {
		q.timer.Reset(d)
	}
}

// expire takes all entries out that have expired.
func (q *expiryQueue) expire() {
	for e := q.pop(); e != nil; e = q.pop() {
		q.expired(e)
	}
}

// pop takes out one entry that has expired. If there is none, it returns nil and sets the
// timer.
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
	e.secret.Release() // under the lock, so that remove returns only after it
	return e
}

// stop stops the timer. The queue has to be empty and to stay so.
func (q *expiryQueue) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.timer != nil {
		q.timer.Stop()
	}
}

// entryHeap is a heap, the entry that expires first in front.
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
