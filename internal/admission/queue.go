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
	// slotsPerCPU is the number of slots of a Queue for each CPU.
	slotsPerCPU = 2
	// maxQueueTime is the maximum time that a call waits in a Queue.
	maxQueueTime = 2 * time.Second
)

// Queue limits how many calls that need much CPU time run at the same time. It gives
// slots to callers in turn (round robin), however many calls each caller has waiting,
// and at most half of the slots to one caller. A Queue does not limit the number of
// waiting calls; the Limiter in front of it does. It is safe for concurrent use.
//
// Go's scheduler runs goroutines in the order in which they became ready, without regard
// to the caller for which they work. If the Queue gave a slot to the first call that
// arrives, a caller with many calls would often get all slots. So the Queue first lets
// the goroutines run that are ready: then all calls that need a slot are in the Queue,
// and calls that need little time are done.
type Queue struct {
	slots, each int
	maxWait     time.Duration

	mu      sync.Mutex
	running int
	callers map[string]*queued
	// turns holds the callers with waiting calls; the first one gets the next slot.
	turns []*queued
	// filling reports that a goroutine is about to assign the free slots.
	filling bool
}

// queued is a caller with running or waiting calls.
type queued struct {
	running int
	waiting []chan struct{} // oldest first; fill closes one to give its call a slot
}

// NewQueue returns a Queue with the given number of slots; 0 means two for each CPU.
func NewQueue(slots int) *Queue {
	slots = cmp.Or(slots, slotsPerCPU*cpulimit.CPUs())
	return &Queue{slots: slots, each: max(1, slots/2), maxWait: maxQueueTime, callers: make(map[string]*queued)}
}

// Acquire waits for a slot, for at most 2 s. The caller of Acquire calls Release when a
// call that got a slot ends. Acquire returns a Refusal if the wait was too long, and
// ctx's error if ctx ended.
func (q *Queue) Acquire(ctx context.Context, name string) (*Refusal, error) {
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
	if !q.giveUp(name, turn) { // it got a slot in the meantime
		return nil, nil
	}
	return over, err
}

// Release ends a call that got a slot.
func (q *Queue) Release(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.callers[name].running--
	q.running--
	q.forget(name)
	q.refill()
}

// join adds a call and returns the channel that fill closes when the call gets a slot.
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

// refill starts a goroutine that assigns the free slots after the goroutines that are
// ready now have run. It requires the lock.
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

// giveUp removes a waiting call, and reports whether the call was still waiting.
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

// next returns the index of the caller that gets the next slot, -1 if there is none. It
// requires the lock.
func (q *Queue) next() int {
	if q.running == q.slots {
		return -1
	}
	return slices.IndexFunc(q.turns, func(c *queued) bool { return c.running < q.each })
}

// fill gives the free slots to the callers in turn. It requires the lock.
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

// forget removes a caller that has no calls. It requires the lock.
func (q *Queue) forget(name string) {
	if c := q.callers[name]; c.running == 0 && len(c.waiting) == 0 {
		delete(q.callers, name)
	}
}
