// Package eventstest has a source of events in memory, for tests.
package eventstest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
)

// visibility is the time after which a message that was not acknowledged is delivered again.
const visibility = 30 * time.Second

// batch is the maximum number of messages of one Receive, and poll the time that it waits.
const (
	batch = 10
	poll  = 20 * time.Second
)

// Queue is a queue in memory. It is safe for concurrent use. In a synctest bubble it must be
// created in the bubble.
type Queue struct {
	mu       sync.Mutex
	messages []*entry
	changed  chan struct{} // closed at each change
	next     int
	receive  error
	ack      error
	hang     chan struct{} // not nil while Receive ignores its context
	hangAck  chan struct{}
	panics   any
	stats    Stats
}

// Stats counts what was done with a Queue.
type Stats struct {
	// Opened and Closed are the numbers of sources. Receives is the number of calls of
	// Receive that returned, Delivered that of deliveries, and Acknowledged that of messages.
	Opened, Closed, Receives, Delivered, Acknowledged int
}

type entry struct {
	message   provider.EventMessage
	visibleAt time.Time
}

// NewQueue returns an empty Queue.
func NewQueue() *Queue { return &Queue{changed: make(chan struct{})} }

// Opener opens a source that receives from the Queue, for any integration.
func (q *Queue) Opener() provider.EventOpener {
	return func(context.Context, *integration.Integration) (provider.EventSource, error) {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.stats.Opened++
		return &consumer{q}, nil
	}
}

func (q *Queue) notify() {
	close(q.changed)
	q.changed = make(chan struct{})
}

// do calls f with the lock, and wakes all that wait.
func (q *Queue) do(f func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	f()
	q.notify()
}

// Send puts messages into the queue. It sets ID, and SentAt if it is zero.
func (q *Queue) Send(messages ...provider.EventMessage) {
	q.do(func() {
		for _, m := range messages {
			q.next++
			m.ID = fmt.Sprint(q.next)
			if m.SentAt.IsZero() {
				m.SentAt = time.Now()
			}
			q.messages = append(q.messages, &entry{message: m})
		}
	})
}

// SendEvent puts a message with one event into the queue.
func (q *Queue) SendEvent(e provider.Event) {
	q.Send(provider.EventMessage{Events: []provider.Event{e}})
}

// Fail makes Receive and Acknowledge fail with these errors; nil lets them succeed.
func (q *Queue) Fail(receive, acknowledge error) {
	q.do(func() { q.receive, q.ack = receive, acknowledge })
}

// Hang makes Receive, or Acknowledge, block whatever their contexts are, until release is
// called.
func (q *Queue) Hang(receive, acknowledge bool) (release func()) {
	free := make(chan struct{})
	q.do(func() {
		if receive {
			q.hang = free
		}
		if acknowledge {
			q.hangAck = free
		}
	})
	return func() {
		q.do(func() { q.hang, q.hangAck = nil, nil })
		close(free)
	}
}

// Panic makes the next Receive panic with v.
func (q *Queue) Panic(v any) { q.do(func() { q.panics = v }) }

// Len returns the number of messages that were not acknowledged.
func (q *Queue) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.messages)
}

// Stats returns the counts.
func (q *Queue) Stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.stats
}

// take returns messages that are visible, a channel that is closed at the next change, and
// the time until the next message becomes visible.
func (q *Queue) take() (out []provider.EventMessage, changed, hang chan struct{}, wait time.Duration, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if v := q.panics; v != nil {
		q.panics = nil
		panic(v)
	}
	if q.receive != nil || q.hang != nil {
		return nil, q.changed, q.hang, poll, q.receive
	}
	now := time.Now()
	wait = poll
	for _, e := range q.messages {
		if len(out) == batch {
			break
		}
		if e.visibleAt.After(now) {
			wait = min(wait, e.visibleAt.Sub(now))
			continue
		}
		e.visibleAt = now.Add(visibility)
		e.message.Deliveries++
		m := e.message
		m.Handle = e
		out = append(out, m)
	}
	q.stats.Delivered += len(out)
	return out, q.changed, nil, wait, nil
}

// consumer is one open source.
type consumer struct{ q *Queue }

// Receive implements provider.EventSource.
func (c *consumer) Receive(ctx context.Context) ([]provider.EventMessage, error) {
	defer func() {
		c.q.mu.Lock()
		c.q.stats.Receives++
		c.q.mu.Unlock()
	}()
	deadline := time.NewTimer(poll)
	defer deadline.Stop()
	for {
		out, changed, hang, wait, err := c.q.take()
		if err != nil || len(out) > 0 {
			return out, err
		}
		if hang != nil {
			<-hang
			continue
		}
		visible := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-deadline.C:
		case <-changed:
			visible.Stop()
			continue
		case <-visible.C:
			if wait < poll {
				continue
			}
		}
		visible.Stop()
		return nil, ctx.Err()
	}
}

// Acknowledge implements provider.EventSource.
func (c *consumer) Acknowledge(_ context.Context, messages []provider.EventMessage) error {
	c.q.mu.Lock()
	err, hang := c.q.ack, c.q.hangAck
	c.q.mu.Unlock()
	if hang != nil {
		<-hang
	}
	if err != nil {
		return err
	}
	c.q.do(func() {
		gone := make(map[*entry]bool, len(messages))
		for i := range messages {
			gone[messages[i].Handle.(*entry)] = true
		}
		kept := c.q.messages[:0]
		for _, e := range c.q.messages {
			if !gone[e] {
				kept = append(kept, e)
			}
		}
		c.q.stats.Acknowledged += len(c.q.messages) - len(kept)
		clear(c.q.messages[len(kept):])
		c.q.messages = kept
	})
	return nil
}

// Check implements provider.EventSource.
func (c *consumer) Check(context.Context) []provider.Step {
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	step := provider.Step{Step: provider.StepEvents, Store: "memory", Found: "the queue is in memory"}
	if c.q.receive != nil {
		step.Err, step.Found = c.q.receive, ""
	}
	return []provider.Step{step}
}

// Close implements provider.EventSource.
func (c *consumer) Close() error {
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	c.q.stats.Closed++
	return nil
}
