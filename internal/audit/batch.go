package audit

import (
	"context"
	"fmt"
)

// batch is what one write takes, and tells those who wait for it what came of it.
type batch struct {
	// These are guarded by Log.mu until the writer takes the batch, and then the
	// writer's alone.
	lines []byte  // not chained yet
	marks []marks // one for every Write that waits, in their order
	later int     // how many of those have a Receipt

	// done is closed once it is known what came of the batch: the first recorded
	// Writes are recorded, the others failed with err.
	done     chan struct{}
	recorded int
	err      error
}

// marks say where the lines of a Write end: in batch.lines, and once they are
// chained in the part of the batch that Log.out has.
type marks struct{ end, outEnd int }

// newBatch returns an empty batch that takes over the memory of used, whose Writes
// have been told, unless that was needed for a burst only.
func newBatch(used *batch) *batch {
	b := &batch{done: make(chan struct{})}
	if used == nil {
		return b
	}
	if cap(used.lines) <= maxKept {
		b.lines, b.marks = used.lines[:0], used.marks[:0]
	}
	used.lines, used.marks = nil, nil // its Receipts may be kept for long
	return b
}

// tell wakes those who wait for the batch. It is called once.
func (l *Log) tell(b *batch, recorded int, err error) {
	b.recorded, b.err = recorded, err
	if err != nil {
		l.failures.Add(uint64(b.later)) //nolint:gosec // a count; the others count themselves
	}
	close(b.done)
}

// Receipt is what Begin returns. Receipts of one group commit are equal. The zero
// Receipt is of what has been recorded.
type Receipt struct{ batch *batch }

// Wait returns nil once everything is recorded that shares the Receipt's group
// commit, and an error if some of that was not. It waits no longer than Write does.
func (r Receipt) Wait() error {
	if r.batch == nil {
		return nil
	}
	<-r.batch.done
	return r.batch.err
}

// ticket is one Write's place in a batch.
type ticket struct {
	batch *batch
	index int
	// later says that the Write is in company, and is waited for elsewhere.
	later bool
}

// wait is the end of a Write.
func (t ticket) wait(ctx context.Context) error {
	if t.batch == nil {
		return nil
	}
	if ctx.Done() == nil {
		<-t.batch.done // which takes half of what a select does
		return t.result()
	}
	select {
	case <-t.batch.done:
		return t.result()
	case <-ctx.Done():
	}
	select {
	case <-t.batch.done: // both came at once: what is written is written
		return t.result()
	default:
		return fmt.Errorf("wait for the audit log to be written: %w", context.Cause(ctx))
	}
}

func (t ticket) result() error {
	if t.index < t.batch.recorded {
		return nil
	}
	return t.batch.err
}

// enqueue encodes the events and queues their lines. No events have no ticket.
// mayLeave says that the Write would take a Receipt.
func (l *Log) enqueue(events []Event, mayLeave bool) (ticket, error) {
	if len(events) == 0 {
		return ticket{}, nil
	}
	buf := l.lines.Get().(*[]byte)
	defer l.lines.Put(buf)
	lines, err := appendEvents((*buf)[:0], events)
	if err != nil {
		return ticket{}, fmt.Errorf("encode an audit event: %w", err)
	}
	if cap(lines) <= maxKept {
		*buf = lines
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ticket{}, errClosed
	}
	b := l.queued
	// Even the longest Write fits into an empty queue.
	if len(b.lines) > 0 && len(b.lines)+len(lines) > l.maxBytes {
		l.full = true
		return ticket{}, errFull
	}
	// One that comes alone, to a writer that rests, has no company whatever was before.
	t := ticket{batch: b, index: len(b.marks)}
	t.later = mayLeave && l.last >= company && l.failed == nil && (l.current != nil || len(b.marks) > 0)
	if t.later {
		b.later++
	}
	b.lines = append(b.lines, lines...)
	b.marks = append(b.marks, marks{end: len(b.lines)})
	if len(b.marks) >= l.want || len(b.lines) >= maxKept {
		l.wake.Signal()
	}
	return t, nil
}

// abandon tells every Write that waits that there may be no record of it. What it
// queued is still written if it can be. Those that come before the writer moves again
// have no company. Callers hold l.mu.
func (l *Log) abandon(err error) {
	l.last = 0
	if l.current != nil {
		l.tell(l.current, 0, err)
		l.current = nil
	}
	if q := l.queued; len(q.marks) > 0 {
		l.queued = newBatch(nil)
		l.queued.lines, q.lines = q.lines, nil
		l.tell(q, 0, err)
	}
}
