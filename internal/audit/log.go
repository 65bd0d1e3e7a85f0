package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit/chain"
	"github.com/secretbroker/secretbroker/internal/audit/syslog"
)

const (
	// maxQueued limits the bytes in the queue: tens of thousands of records, far more
	// than a healthy disk leaves waiting.
	maxQueued = 16 << 20
	// maxKept is the size of the largest buffer that is reused after a burst: the lines
	// of about two thousand calls.
	maxKept = 2 << 20
	// patience limits how long Reopen, Close and a Write wait for the writer, and how
	// long a write may take before Problem reports it.
	patience = 2 * time.Second
	// minShared is the number of Writes per batch from which Begin returns Receipts. In
	// smaller batches, waiting in each call costs little.
	minShared = 8
)

var (
	errClosed = errors.New("the audit log is closed")
	errFull   = errors.New("the audit log's queue is full: its file or pipe accepts records too slowly or not at all")
	errLocked = errors.New("another process writes this audit log; give every broker a file of its own")
	errStuck  = errors.New("the audit log is stuck: a write to its file or pipe does not return")
	errSlow   = errors.New("the audit log was not written in time: its file or pipe accepts records too slowly or not at all")
)

// Log writes events as JSON lines and chains them; see package chain. It is safe for
// concurrent use. The lines of one Write are contiguous, and Writes are recorded in the
// order in which they were queued. The caller must Close the Log.
//
// The path of a record:
//
//  1. Write (or Begin) encodes its events and appends the lines to the queued batch,
//     under mu. It then waits for the batch's done channel.
//  2. The writer, one goroutine that runs Log.run, takes the queued batch and leaves an
//     empty one. See linger.go for when it does so.
//  3. The writer commits the batch: it computes the chain values, writes the lines, calls
//     fsync if Config.Sync is set, and sends the copies. See commit.go.
//  4. The writer completes the batch: it closes done, and every Write of the batch
//     returns. Writes that were queued meanwhile are the next batch.
//
// The writer owns the file, the chain and the buffers, so these need no lock. The mutex mu
// guards what the writer shares with callers: the queue and the state that Problem,
// Refuses and Stats report. No goroutine holds mu during I/O. A write that hangs therefore
// blocks the writer only: after maxWait the alarm timer completes the batches of all waiting
// callers with an error (see abandon).
//
// If a write fails, for example because the disk is full, its Writes fail, and each later
// batch tries again. While no calls come, the probing timer makes the writer try by
// itself, so that the log recovers without traffic.
type Log struct {
	path     string
	sync     bool
	maxBytes int           // see maxQueued
	patience time.Duration // see patience
	maxWait  time.Duration // of a Write; equal to patience except in tests
	logger   *slog.Logger
	copies   []*syslog.Copier

	// ended is closed when the writer has ended.
	ended chan struct{}
	// alarm fails the waiting Writes if the writer is stuck. It runs while the writer
	// works on a batch.
	alarm *time.Timer
	// lingerTimer ends the writer's wait for more Writes.
	lingerTimer *time.Timer
	// probing makes the writer try again after a failed write if no Write comes.
	probing *time.Timer

	// The following fields belong to the writer. No lock guards them.

	w       io.Writer
	regular bool // w is a regular file
	linker  *chain.Linker
	out     []byte // chained lines, to be written next
	// forCopies are the written lines, to be sent to the copies.
	forCopies []byte
	// header is the cause of the segment header that the next write begins with, "" for
	// none.
	header string
	// unchained are the bytes since the last record that are not part of a record.
	unchained chain.Unchained
	// midline: w does not end with a newline.
	midline bool
	// closeErr is read once ended is closed.
	closeErr error

	failures atomic.Uint64 // Writes that failed
	lines    sync.Pool     // of *[]byte, the lines that a Write encodes

	mu sync.Mutex // guards the following fields

	wake   *sync.Cond // signaled when the writer has something to do
	queued *batch     // Writes append to it
	// current is the batch that the writer commits; nil once it is complete.
	current *batch
	// last is the number of Writes of the last batch that the writer took, and began the
	// time when it took it.
	last  int
	began time.Time
	// want is the number of queued Writes that the writer waits for, 0 if it does not
	// wait. See linger.
	want    int
	reopens []chan error
	closed  bool
	// full: a Write was refused since the writer last took the queue.
	full bool
	// busySince is when the writer started its current work; zero while it is idle.
	busySince time.Time
	// failed is the error of the last commit.
	failed error
	// probe makes the writer try again, probePause after the failure.
	probe      bool
	probePause time.Duration
	// slow: Writes failed because the commit in progress takes too long.
	slow bool
	// file identifies the open file; nil if the Log has no path.
	file os.FileInfo
	// head is the last record written. Only the writer changes it.
	head             chain.Head
	records, batches uint64
	writing          time.Duration // total duration of all commits
}

// New returns a Log that writes a new chain to w, without a segment header at its
// beginning. Close closes w if it is an io.Closer.
func New(w io.Writer) *Log {
	l := newLog("", w)
	go l.run()
	return l
}

func newLog(path string, w io.Writer) *Log {
	l := &Log{
		path: path, maxBytes: maxQueued, patience: patience, maxWait: patience, w: w, linker: chain.NewLinker(nil), logger: slog.New(slog.DiscardHandler),
		ended: make(chan struct{}), queued: newBatch(nil),
	}
	l.wake = sync.NewCond(&l.mu)
	l.alarm = time.AfterFunc(time.Hour, l.overdue)
	l.alarm.Stop()
	l.lingerTimer = time.AfterFunc(time.Hour, l.endLinger)
	l.lingerTimer.Stop()
	l.probing = time.AfterFunc(time.Hour, l.probeNow)
	l.probing.Stop()
	l.lines.New = func() any { return new([]byte) }
	return l
}

// Write records the events. When it returns nil, the operating system has them, and with
// Config.Sync they are on the disk. Write waits until ctx ends, but at most two seconds
// for the commit in progress and two for its own. It fails at once if the queue is full:
// a file that is so far behind does not catch up within a call, and waiting would only
// pile up calls.
//
// On error the caller must treat all events as not recorded. The Log still writes events
// that were queued when ctx ended, if it can.
func (l *Log) Write(ctx context.Context, events []Event) error {
	err := l.write(ctx, events)
	if err != nil {
		l.failures.Add(1)
	}
	return err
}

func (l *Log) write(ctx context.Context, events []Event) error {
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("write the audit log: %w", err)
	}
	t, err := l.enqueue(events, false)
	if err != nil {
		return err
	}
	return t.wait(ctx)
}

// Begin also returns the Position of the first record. It is like Write, but under load it returns as soon as the events are queued. No
// value that the events are about may then leave the broker before the Receipt's Wait has
// returned nil. This saves parking a goroutine per call, which is a large part of the
// cost of a call when many of them share a commit; the server waits once per connection
// (see the commit barrier of package server).
//
// Without load, and always when the last commit failed or the current one takes too long,
// Begin waits like Write, so that the call itself returns the error.
func (l *Log) Begin(events []Event) (Receipt, Position, error) {
	t, err := l.enqueue(events, true)
	if err == nil && t.later {
		return Receipt{t.batch}, t.position(), nil
	}
	if err == nil {
		err = t.wait(context.Background())
	}
	if err != nil {
		l.failures.Add(1)
	}
	return Receipt{}, t.position(), err
}

// overdue runs when the writer has worked on one batch for maxWait, and again after each
// further maxWait for the Writes that were queued meanwhile.
func (l *Log) overdue() {
	l.mu.Lock()
	if l.busySince.IsZero() || time.Since(l.busySince) < l.maxWait {
		l.mu.Unlock()
		return // the writer has just finished
	}
	l.abandon(errSlow)
	l.alarm.Reset(l.maxWait)
	news := !l.slow && l.failed == nil
	l.slow = true
	l.mu.Unlock()
	if news {
		l.logger.Error("the audit log cannot be written; calls fail until it can", "path", l.path, "error", errSlow)
	}
}

// Reopen opens the file at the path again, after log rotation has moved the old one. If
// that fails, the Log keeps using the old file. Reopen waits up to two seconds for a
// write in progress; then it returns an error, and the writer reopens the file when the
// write has returned.
func (l *Log) Reopen() error {
	if l.path == "" || l.path == Stdout {
		return nil
	}
	done := make(chan error, 1)
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return errClosed
	}
	l.reopens = append(l.reopens, done)
	l.wake.Signal()
	l.mu.Unlock()

	timer := time.NewTimer(l.patience)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return fmt.Errorf("reopen the audit log: %w", errStuck)
	}
}

// Close writes the queued events and closes the file. If that takes more than two
// seconds, Close returns an error and the waiting Writes fail: their events may not be
// recorded. Every later Write fails.
func (l *Log) Close() error {
	l.mu.Lock()
	l.closed = true
	l.wake.Signal()
	l.mu.Unlock()

	defer l.closeCopies()
	timer := time.NewTimer(l.patience)
	defer timer.Stop()
	select {
	case <-l.ended:
		return l.closeErr
	case <-timer.C:
		l.mu.Lock()
		l.abandon(errStuck)
		l.mu.Unlock()
		return fmt.Errorf("close the audit log: %w", errStuck)
	}
}

// closeCopies gives the copies as much time again to send their queues.
func (l *Log) closeCopies() {
	var closing sync.WaitGroup
	for _, c := range l.copies {
		if !c.Required {
			closing.Go(func() { c.Close(l.patience) })
		}
	}
	closing.Wait()
}

// run is the writer. It ends after Close, or, if a write is stuck, when that returns.
func (l *Log) run() {
	defer close(l.ended)
	b := newBatch(nil)
	for {
		w := l.next(b)
		if b = w.batch; b == nil {
			break
		}
		if len(w.reopens) > 0 {
			err := l.reopen()
			for _, done := range w.reopens {
				done <- err
			}
		}
		if w.probe && l.header == "" {
			l.header = chain.Resumed
		}
		if len(b.lines) > 0 || w.probe {
			l.commit(b)
		}
	}
	if c, ok := l.w.(io.Closer); ok && l.path != Stdout {
		l.closeErr = c.Close()
	}
	for _, c := range l.copies {
		if c.Required {
			c.Disconnect()
		}
	}
}
