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
	// maxQueued is how many bytes wait for the write under way at most: some ten
	// thousands of records, far more than a healthy disk leaves waiting.
	maxQueued = 16 << 20
	// maxKept is the largest buffer that is used again after a burst: the lines of some
	// two thousand calls.
	maxKept = 2 << 20
	// patience is how long Reopen, Close and a Write wait for the writer, and how
	// long a write may take before Problem names it.
	patience = 2 * time.Second
	// company is how many Writes that share one write of the file make it worth
	// while to wait for the file elsewhere; see Begin.
	company = 8
)

var (
	errClosed = errors.New("the audit log is closed")
	errFull   = errors.New("the audit log's queue is full: its file or pipe takes records too slowly or not at all")
	errLocked = errors.New("another process writes this audit log; give every broker a file of its own")
	errStuck  = errors.New("the audit log is stuck: a write to its file or pipe does not return")
	errSlow   = errors.New("the audit log was not written in time: its file or pipe takes records too slowly or not at all")
)

// Log writes events as JSON lines and chains them; see package chain. It is safe for
// concurrent use; the lines of one Write stand together, and Writes stand in the
// order of their queueing.
//
// One goroutine owns the file: it writes all that is queued with one write, so
// that concurrent Writes share it. Nothing else ever waits for the file but for
// a bounded time. Whoever makes a Log closes it.
type Log struct {
	path     string
	sync     bool
	maxBytes int           // see maxQueued
	patience time.Duration // see patience
	maxWait  time.Duration // of a Write; patience but in tests
	logger   *slog.Logger
	copies   []*syslog.Copier

	// ended is closed when the writer has ended.
	ended chan struct{}
	// alarm fails the Writes that wait when the writer is stuck. It is set while
	// the writer works.
	alarm *time.Timer
	// gathering ends the writer's wait for other Writes.
	gathering *time.Timer
	// probing makes the writer try again after a failed write, without any Write.
	probing *time.Timer

	// These are the writer's alone.
	w       io.Writer
	regular bool // w is a regular file
	linker  *chain.Linker
	out     []byte // what is written next
	// forCopies is what is written for the copies.
	forCopies []byte
	// header is the cause of the segment header that has to come first, "" for none.
	header string
	// unchained are the bytes since the last record that are no record.
	unchained chain.Unchained
	// midline says that w does not end with a newline.
	midline bool
	// closeErr is read once ended is closed.
	closeErr error

	failures atomic.Uint64 // Writes that failed
	lines    sync.Pool     // of *[]byte, what a Write encodes

	mu     sync.Mutex
	wake   *sync.Cond // told when there is something for the writer to do
	queued *batch
	// current is what the writer writes; nil once its Writes have been told.
	current *batch
	// last is how many Writes the last batch was of, and began when it was taken.
	last  int
	began time.Time
	// want is how many Writes the writer waits for; 0 if it does not. See gather.
	want    int
	reopens []chan error
	closed  bool
	// full says that a Write was refused since the writer last took the queue.
	full bool
	// busySince is when the writer began what it does; zero when it waits.
	busySince time.Time
	// failed is the last write's error.
	failed error
	// probe asks the writer to try again, probePause after the failure.
	probe      bool
	probePause time.Duration
	// slow says that Writes were told that the one under way takes too long.
	slow bool
	// file is the open file, nil if there is none at path.
	file os.FileInfo
	// head is the last record written. Only the writer changes it.
	head             chain.Head
	records, batches uint64
	writing          time.Duration // the batches, altogether
}

// New returns a Log that writes a chain of its own to w, without a segment header at
// its beginning, and closes w, if it can be, at the end.
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
	l.gathering = time.AfterFunc(time.Hour, l.gathered)
	l.gathering.Stop()
	l.probing = time.AfterFunc(time.Hour, l.probeNow)
	l.probing.Stop()
	l.lines.New = func() any { return new([]byte) }
	return l
}

// Write records the events: when it returns nil, the operating system has them,
// and with Config.Sync the disk. It waits for that until ctx ends, and no longer
// than the writer may be at one thing: two seconds for the write under way and two
// for its own. It fails at once if the queue is full: a file that is so far behind
// does not catch up within a call, and waiting would only pile up calls.
//
// On error none of the events may be taken as recorded, although what was
// queued when ctx ended is still written if it can be.
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

// Begin is a Write that need not wait itself. Under a load at which parking every
// call until the disk has its records costs a good part of what calls cost, it
// returns once the events are queued: nothing that they tell of may then leave the
// broker before the Receipt's Wait has returned nil. Otherwise, and always when the
// last write failed or the one under way takes too long, it waits, so that callers are
// told what is wrong.
func (l *Log) Begin(events []Event) (Receipt, error) {
	t, err := l.enqueue(events, true)
	if err == nil && t.later {
		return Receipt{t.batch}, nil
	}
	if err == nil {
		err = t.wait(context.Background())
	}
	if err != nil {
		l.failures.Add(1)
	}
	return Receipt{}, err
}

// overdue is called when the writer has been at one thing for maxWait, and again
// for those that come while it is stuck.
func (l *Log) overdue() {
	l.mu.Lock()
	if l.busySince.IsZero() || time.Since(l.busySince) < l.maxWait {
		l.mu.Unlock()
		return // it was just done
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

// Reopen opens the file anew, after it was moved away by log rotation. If it
// cannot be opened, the old file stays in use. Reopen waits for a write under
// way for two seconds; if that has not returned by then, Reopen fails, and the
// file is opened anew once it has.
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
		return fmt.Errorf("open the audit log anew: %w", errStuck)
	}
}

// Close takes no more events, writes what is queued, and closes the file. If
// that takes more than two seconds it fails and so do the Writes still waiting:
// they may have no record. Every later Write fails.
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

// closeCopies gives what is queued for the copies as long again.
func (l *Log) closeCopies() {
	var closing sync.WaitGroup
	for _, c := range l.copies {
		if !c.Required {
			closing.Go(func() { c.Close(l.patience) })
		}
	}
	closing.Wait()
}

// run is the writer. It ends after Close, or, if it is stuck then, once what it
// is stuck in returns.
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
