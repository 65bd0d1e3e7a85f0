package admission

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/cpulimit"
)

const (
	// placesPerCPU is how many calls of a Queue run for each CPU.
	placesPerCPU = 2
	// maxQueueTime is how long a call waits in a Queue.
	maxQueueTime = 2 * time.Second
)

// Queue bounds how many calls run at the same time, for calls that need much CPU
// time. Callers get places in turn, however many calls each of them has waiting,
// and one caller never has more than half of the places. A Queue does not bound how
// many calls wait; a Gate before it does. It is safe for concurrent use and starts
// no goroutines.
type Queue struct {
	places, each int
	maxWait      time.Duration

	mu      sync.Mutex
	running int
	callers map[string]*queued
	// turns are the callers with waiting calls, the one whose turn is next first.
	turns []*queued
}

// queued is a caller with calls that run or wait.
type queued struct {
	running int
	waiting []chan struct{} // each is closed when its call gets a place; oldest first
}

// NewQueue makes a Queue with so many places; 0 means two for each CPU.
func NewQueue(places int) *Queue {
	places = cmp.Or(places, placesPerCPU*cpulimit.CPUs())
	return &Queue{places: places, each: max(1, places/2), maxWait: maxQueueTime, callers: make(map[string]*queued)}
}

// Wait waits for a place, 2 s at most. A call that gets one has to Leave. Without a
// place the call gets a Refusal, if the wait was too long, or ctx's error.
func (q *Queue) Wait(ctx context.Context, name string) (*Refusal, error) {
	turn := q.join(name)
	select {
	case <-turn:
		return nil, nil
	default:
	}
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
	if !q.giveUp(name, turn) { // it got a place just now
		return nil, nil
	}
	return over, err
}

// Leave ends a call that got a place.
func (q *Queue) Leave(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.callers[name].running--
	q.running--
	q.forget(name)
	q.fill()
}

// join adds a call and returns what is closed when it has a place.
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
	q.fill()
	return turn
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

// fill gives the free places to the callers whose turn it is. The lock is held.
func (q *Queue) fill() {
	for q.running < q.places {
		i := slices.IndexFunc(q.turns, func(c *queued) bool { return c.running < q.each })
		if i < 0 {
			return
		}
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
