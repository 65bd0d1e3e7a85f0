package audit

import (
	"runtime"
	"time"
)

// The size of the batches decides what records cost: an fsync takes about as long for one
// Write as for a hundred. The writer uses two ways to make batches larger. Neither of them
// delays a Write that comes alone:
//
//   - Yield: the writer yields the processor before it takes a small batch. The Write that
//     wakes the writer makes it the next goroutine to run on that processor. With a single
//     processor the writer would take a batch of one, and fsync would keep the processor
//     from goroutines whose Writes could have shared the commit. The writer yields again
//     as long as the queue grows. It does not yield before a batch of fullBatch Writes:
//     the disk would be idle while the processors work on the calls that the last commit
//     has released.
//   - Linger: the callers that a commit releases usually return together. Without a wait
//     they and the Writes that were queued meanwhile would form two batches in turn, and
//     each caller would wait for both commits. So after a commit the writer waits until as
//     many Writes are queued as both batches had, but no longer than the commit took, and
//     never longer than maxLinger. It does not wait after a batch of one Write if no other
//     is queued.
//
// docs/design.md lists the alternatives that were rejected.
const (
	// fullBatch is the number of Writes from which the writer takes a batch at once.
	fullBatch = 32
	// maxLinger limits how long the writer waits for more Writes.
	maxLinger = time.Millisecond
)

// work is what the writer does next: it reopens the file if a Reopen waits, and then
// commits the batch.
type work struct {
	batch   *batch
	reopens []chan error
	// probe: the last commit failed, and it is time to try again.
	probe bool
}

// next waits for work and takes all of it. An empty batch that reuses the buffers of used
// becomes the queue. It returns no batch when the log is closed and the queue is empty.
func (l *Log) next(used *batch) work {
	l.alarm.Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busySince = time.Time{}
	if l.sync && !l.began.IsZero() {
		l.linger()
	}
	for len(l.queued.lines) == 0 && len(l.reopens) == 0 && !l.probe {
		if l.closed {
			return work{}
		}
		l.wake.Wait()
	}
	for n := 0; n < len(l.queued.marks) && len(l.queued.marks) < fullBatch; {
		n = len(l.queued.marks)
		l.mu.Unlock()
		runtime.Gosched()
		l.mu.Lock()
	}
	w := work{l.queued, l.reopens, l.probe}
	l.last, l.began = len(w.batch.marks), time.Now()
	l.queued, l.reopens, l.full, l.probe = newBatch(used), nil, false, false
	l.busySince = l.began
	l.current = w.batch
	l.alarm.Reset(l.maxWait)
	return w
}

// linger waits after a commit for Writes of the callers that the commit has released. The
// writer calls it with l.mu locked.
func (l *Log) linger() {
	queued := len(l.queued.marks)
	if queued >= fullBatch || queued+l.last < 2 {
		return
	}
	l.want = queued + l.last
	l.lingerTimer.Reset(min(maxLinger, time.Since(l.began)))
	for l.want > 0 && len(l.queued.marks) < l.want && len(l.queued.lines) < maxKept && len(l.reopens) == 0 && !l.closed {
		l.wake.Wait()
	}
	l.lingerTimer.Stop()
	l.want = 0
}

// endLinger ends the wait of linger when its time is over.
func (l *Log) endLinger() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.want = 0
	l.wake.Signal()
}
