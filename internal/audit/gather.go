package audit

import (
	"runtime"
	"time"
)

// When the writer closes a group decides what records cost: forcing them to the disk
// takes about as long for one Write as for a hundred. Two rules make the group, and
// none of them delays a Write that comes alone:
//
//   - The writer yields before it takes a small queue. The Write that wakes it makes it
//     the next goroutine to run on that processor. On a single processor it would take a
//     queue of one, and would keep the processor in fsync while those that are ready to
//     run could have shared the commit. It yields again as long as the queue grows. It
//     does not yield before a queue of a crowd: the disk would be idle while the
//     processors work through the calls that the last commit has released.
//   - The callers that a commit releases usually come back together. Without a wait they
//     and those that were queued meanwhile would make two groups in turn, and each would
//     wait for both commits. So after a commit the writer waits until as many Writes are
//     queued as there were in both, but no longer than the commit took, and never longer
//     than pause. It does not wait after a commit of one Write with none queued.
//
// docs/design.md says which other forms were rejected.
const (
	// crowd is how many Writes make a group large enough.
	crowd = 32
	// pause bounds every wait for other Writes.
	pause = time.Millisecond
)

// work is what next returns.
type work struct {
	batch   *batch
	reopens []chan error
	// probe: the last write failed, and it is time to find out whether one can succeed.
	probe bool
}

// next waits for work and takes all there is, leaving used, emptied, as the new
// queue. It returns no batch when the log is closed and everything is done.
func (l *Log) next(used *batch) work {
	l.alarm.Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busySince = time.Time{}
	if l.sync && !l.began.IsZero() {
		l.gather()
	}
	for len(l.queued.lines) == 0 && len(l.reopens) == 0 && !l.probe {
		if l.closed {
			return work{}
		}
		l.wake.Wait()
	}
	for n := 0; n < len(l.queued.marks) && len(l.queued.marks) < crowd; {
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

// gather waits after a commit for the Writes that it has released. The writer calls it
// with l.mu locked.
func (l *Log) gather() {
	queued := len(l.queued.marks)
	if queued >= crowd || queued+l.last < 2 {
		return
	}
	l.want = queued + l.last
	l.gathering.Reset(min(pause, time.Since(l.began)))
	for l.want > 0 && len(l.queued.marks) < l.want && len(l.queued.lines) < maxKept && len(l.reopens) == 0 && !l.closed {
		l.wake.Wait()
	}
	l.gathering.Stop()
	l.want = 0
}

// gathered ends the wait of gather when its time is over.
func (l *Log) gathered() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.want = 0
	l.wake.Signal()
}
