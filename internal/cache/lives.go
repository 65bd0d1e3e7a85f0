package cache

import (
	"container/heap"
	"math"
	"sync"
	"time"
)

// lives are the entries in ristretto, by when their lives end. At that instant an
// entry gives up its reference to its secret. ristretto's own expiry is of no use
// for that: it hides what has expired, but lets go of it only in sweeps, which come
// seconds later and, when the wall clock has jumped ahead, not at all. It would also
// take 30 bytes for each entry and a look at the clock for each hit; a timer for
// each entry takes 150 bytes, a place here ten.
type lives struct {
	began time.Time    // what ends counts from, by the monotonic clock
	ended func(*entry) // is told of each entry whose life is over, after its end

	mu    sync.Mutex
	queue queue
	timer *time.Timer // for the first of the queue; nil before there was one
}

// begin gives the entry a reference to its secret, for keep at most. The caller has
// one already.
func (l *lives) begin(e *entry, keep time.Duration) {
	e.secret.Retain()
	l.mu.Lock()
	defer l.mu.Unlock()
	e.ends = time.Since(l.began) + keep
	if e.ends < keep { // it is for ever
		e.ends = math.MaxInt64
	}
	heap.Push(&l.queue, e)
	if l.queue[0] == e {
		l.wake(keep)
	}
}

// end gives up that reference, once, if the life is not over already. Readers keep
// theirs.
func (l *lives) end(e *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.place != 0 {
		heap.Remove(&l.queue, int(e.place-1))
		e.secret.Release()
	}
}

// has reports whether the entry's life goes on.
func (l *lives) has(e *entry) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return e.place != 0
}

// wake has the timer call pass after d; l.mu is held.
func (l *lives) wake(d time.Duration) {
	if l.timer == nil {
		l.timer = time.AfterFunc(d, l.pass)
	} else {
		l.timer.Reset(d)
	}
}

// pass ends the lives that are over.
func (l *lives) pass() {
	for e := l.over(); e != nil; e = l.over() {
		l.ended(e)
	}
}

// over ends one of the lives that are over. If there is none, it is nil and the timer
// is set.
func (l *lives) over() *entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		return nil
	}
	e := l.queue[0]
	if left := e.ends - time.Since(l.began); left > 0 {
		l.wake(left)
		return nil
	}
	heap.Pop(&l.queue)
	e.secret.Release() // under the lock, so that whoever ends all lives is done then
	return e
}

// stop ends the timer, when all lives have ended and none begins any more.
func (l *lives) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
	}
}

// queue is a heap, the entry whose life ends first in front.
type queue []*entry

// Len implements heap.Interface.
func (q queue) Len() int { return len(q) }

// Less implements heap.Interface.
func (q queue) Less(i, j int) bool { return q[i].ends < q[j].ends }

// Swap implements heap.Interface.
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = int32(i+1), int32(j+1) //nolint:gosec // no memory holds that many
}

// Push implements heap.Interface.
func (q *queue) Push(x any) {
	e := x.(*entry)
	*q = append(*q, e)
	e.place = int32(len(*q)) //nolint:gosec // no memory holds that many
}

// Pop implements heap.Interface.
func (q *queue) Pop() any {
	old := *q
	last := len(old) - 1
	e := old[last]
	e.place = 0
	old[last] = nil
	*q = old[:last]
	return e
}
