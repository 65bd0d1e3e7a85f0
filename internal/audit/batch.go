package audit

import (
	"context"
	"fmt"
)

// batch is the unit of a commit: the lines of all Writes that share one write and one
// fsync. It also carries the result to those Writes.
type batch struct {
	// Log.mu guards these fields until the writer takes the batch. Then they belong to
	// the writer.
	lines []byte  // not chained yet
	marks []marks // one for each waiting Write, in order
	later int     // the number of those that have a Receipt
	count int     // the number of lines

	// done is closed when the batch is complete: the first `recorded` Writes are
	// recorded, and the others failed with err.
	done     chan struct{}
	recorded int
	err      error
	// first is the number of the batch's first line in the chain. It is set before done is
	// closed, if any Write is recorded.
	first uint64
}

// marks are the ends of a Write's lines: in batch.lines, and, once they are chained, in
// the part of the batch that is in Log.out.
type marks struct{ end, outEnd int }

// newBatch returns an empty batch. It reuses the buffers of used, which must be complete,
// unless a burst made them too large to keep.
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

// complete sets the result of the batch and wakes the Writes that wait for it. It is
// called once per batch.
func (l *Log) complete(b *batch, recorded int, err error) {
	b.recorded, b.err = recorded, err
	if err != nil {
		l.failures.Add(uint64(b.later)) //nolint:gosec // a count; the others count themselves
	}
	close(b.done)
}

// Receipt identifies a commit that may not have finished. Receipts of one batch are equal.
// The zero Receipt is that of events that are already recorded.
type Receipt struct{ batch *batch }

// Wait returns nil once the whole batch is recorded, and an error if some of it could not
// be. It waits no longer than Write does.
func (r Receipt) Wait() error {
	if r.batch == nil {
		return nil
	}
	<-r.batch.done
	return r.batch.err
}

// Position is where a record is in the chain, which is known once it is committed. The zero
// Position is unknown. It is safe for concurrent use.
type Position struct {
	batch       *batch
	write, line int32 // of the batch
}

// Next returns the position of the n-th record after p, which must be of the same Begin.
func (p Position) Next(n int) Position {
	p.line += int32(n) //nolint:gosec // a call has far fewer records
	return p
}

// Sequence returns the number of the record in the chain, 0 if that is unknown because the
// record could not be written. known is false if the commit has not finished.
func (p Position) Sequence() (seq uint64, known bool) {
	if p.batch == nil {
		return 0, true
	}
	select {
	case <-p.batch.done:
	default:
		return 0, false
	}
	if int(p.write) >= p.batch.recorded {
		return 0, true
	}
	return p.batch.first + uint64(p.line), true //nolint:gosec // not negative
}

// ticket identifies one Write in a batch.
type ticket struct {
	batch *batch
	index int
	line  int // of the batch, the Write's first
	// later: the Write does not wait itself; the holder of its Receipt does.
	later bool
}

// wait waits until the batch is complete or ctx ends.
func (t ticket) wait(ctx context.Context) error {
	if t.batch == nil {
		return nil
	}
	if ctx.Done() == nil {
		<-t.batch.done // costs half as much as a select
		return t.result()
	}
	select {
	case <-t.batch.done:
		return t.result()
	case <-ctx.Done():
	}
	select {
	case <-t.batch.done: // both are ready: the result counts
		return t.result()
	default:
		return fmt.Errorf("wait for the audit log to be written: %w", context.Cause(ctx))
	}
}

// position returns the position of the Write's first record.
func (t ticket) position() Position {
	return Position{t.batch, int32(t.index), int32(t.line)} //nolint:gosec // bounded by maxQueued
}

func (t ticket) result() error {
	if t.index < t.batch.recorded {
		return nil
	}
	return t.batch.err
}

// enqueue encodes the events and queues their lines. Without events it returns the zero
// ticket. acceptReceipt says that the caller accepts a Receipt instead of waiting.
func (l *Log) enqueue(events []Event, acceptReceipt bool) (ticket, error) {
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
	// An empty queue accepts a Write of any length.
	if len(b.lines) > 0 && len(b.lines)+len(lines) > l.maxBytes {
		l.full = true
		return ticket{}, errFull
	}
	// The first Write that an idle writer gets waits itself, however large the last batch
	// was: no other Write may share its commit.
	t := ticket{batch: b, index: len(b.marks), line: b.count}
	t.later = acceptReceipt && l.last >= minShared && l.failed == nil && (l.current != nil || len(b.marks) > 0)
	if t.later {
		b.later++
	}
	b.lines = append(b.lines, lines...)
	b.count += len(events)
	b.marks = append(b.marks, marks{end: len(b.lines)})
	if len(b.marks) >= l.want || len(b.lines) >= maxKept {
		l.wake.Signal()
	}
	return t, nil
}

// abandon fails every waiting Write: its events may not be recorded. Their lines stay
// queued, and the writer still writes them if it can. Setting last to 0 makes later calls
// of Begin wait themselves until the writer continues. The caller holds l.mu.
func (l *Log) abandon(err error) {
	l.last = 0
	if l.current != nil {
		l.complete(l.current, 0, err)
		l.current = nil
	}
	if q := l.queued; len(q.marks) > 0 {
		l.queued = newBatch(nil)
		l.queued.lines, l.queued.count, q.lines = q.lines, q.count, nil
		l.complete(q, 0, err)
	}
}
