package admission

import (
	"cmp"
	"context"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/cpulimit"
)

const (
	// slotsPerCPU is how many calls of a Queue run for each CPU.
	slotsPerCPU = 2
	// maxQueueTime is how long a call waits in a Queue.
	maxQueueTime = 2 * time.Second
)

// Queue bounds how many calls run at the same time, for calls that need much CPU
// time. Callers get slots in turn, however many calls each of them has waiting,
// and one caller never has more than half of the slots. A Queue does not bound how
// many calls wait; a Gate before it does. It is safe for concurrent use.
//
// Go's scheduler runs goroutines in the order in which they became ready, whoever they
// work for. So a call gets no slot before the goroutines that are ready by then have run:
// those that want slots wait by then, and those that need little time are done.
type Queue struct {
	slots, each int
	maxWait     time.Duration

	mu      sync.Mutex
	running int
	callers map[string]*queued
	// turns are the callers with waiting calls, the one whose turn is next first.
	turns []*queued
	// filling says that a goroutine is about to give free slots away.
	filling bool
}

// queued is a caller with calls that run or wait.
type queued struct {
	running int
	waiting []chan struct{} // each is closed when its call gets a slot; oldest first
}

// NewQueue makes a Queue with so many slots; 0 means two for each CPU.
func NewQueue(slots int) *Queue {
	slots = cmp.Or(slots, slotsPerCPU*cpulimit.CPUs())
	return &Queue{slots: slots, each: max(1, slots/2), maxWait: maxQueueTime, callers: make(map[string]*queued)}
}

// Wait waits for a slot, 2 s at most. A call that gets one has to Leave. Without a
// slot the call gets a Refusal, if the wait was too long, or ctx's error.
func (q *Queue) Wait(ctx context.Context, name string) (*Refusal, error) {
	turn := q.join(name)
	timer := time.NewTimer(q.maxWait)
	defer timer.Stop()
	var over *Refusal
	var err error
	select {
	case <-turn:
		return nil, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-timer.C:
		over = &Refusal{Limit: CPU, RetryAfter: time.Second}
	}
	if !q.giveUp(name, turn) { // it got a slot just now
		return nil, nil
	}
	return over, err
}

// Leave ends a call that got a slot.
func (q *Queue) Leave(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.callers[name].running--
	q.running--
	q.forget(name)
	q.refill()
}

// join adds a call and returns what is closed when it has a slot.
func (q *Queue) join(name string) chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := q.callers[name]
	if c == nil {
		c = &queued{}
		q.callers[name] = c
	}
	turn := make(chan struct{})
	if c.waiting = append(c.waiting, turn); len(c.waiting) == 1 {
		q.turns = append(q.turns, c)
	}
	q.refill()
	return turn
}

// refill has the free slots given away, once the goroutines that are ready have run. The
// lock is held.
func (q *Queue) refill() {
	if q.filling || q.next() < 0 {
		return
	}
	q.filling = true
	go func() {
		runtime.Gosched()
		q.mu.Lock()
		defer q.mu.Unlock()
		q.filling = false
		q.fill()
	}()
}

// giveUp takes a waiting call out, and reports whether it was still waiting.
func (q *Queue) giveUp(name string, turn chan struct{}) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := q.callers[name]
	i := slices.Index(c.waiting, turn)
	if i < 0 {
		return false
	}
	if c.waiting = slices.Delete(c.waiting, i, i+1); len(c.waiting) == 0 {
		q.turns = slices.DeleteFunc(q.turns, func(other *queued) bool { return other == c })
	}
	q.forget(name)
	return true
}

// next is the index of the caller that gets the next slot, -1 if there is none. The lock
// is held.
func (q *Queue) next() int {
	if q.running == q.slots {
		return -1
	}
	return slices.IndexFunc(q.turns, func(c *queued) bool { return c.running < q.each })
}

// fill gives the free slots to the callers whose turn it is. The lock is held.
func (q *Queue) fill() {
	for i := q.next(); i >= 0; i = q.next() {
		c := q.turns[i]
		close(c.waiting[0])
		c.running++
		q.running++
		q.turns = slices.Delete(q.turns, i, i+1)
		if c.waiting = slices.Delete(c.waiting, 0, 1); len(c.waiting) > 0 {
			q.turns = append(q.turns, c)
		}
	}
}

// forget removes a caller without calls. The lock is held.
func (q *Queue) forget(name string) {
	if c := q.callers[name]; c.running == 0 && len(c.waiting) == 0 {
		delete(q.callers, name)
	}
}
