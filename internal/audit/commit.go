package audit

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit/chain"
)

// commit chains the batch, writes it, and tells its Writes what came of it: those
// that stand in what was written before an error are recorded.
func (l *Log) commit(b *batch) {
	recorded, err := l.commitTo(b)
	if err != nil {
		err = fmt.Errorf("write the audit log: %w", err)
	}
	l.mu.Lock()
	failedBefore, slowBefore := l.failed != nil, l.slow
	l.failed, l.slow = err, false
	l.batches++
	l.writing += time.Since(l.began)
	if l.current == b { // otherwise its Writes were told that it takes too long
		l.current = nil
		l.tell(b, recorded, err)
	}
	if err == nil {
		l.probePause = 0
		l.probing.Stop()
	} else {
		l.probePause = min(max(2*l.probePause, minProbe), maxProbe)
		l.probing.Reset(l.probePause)
	}
	l.mu.Unlock()
	// Only changes are logged: callers may come by the ten thousand.
	switch {
	case err != nil && !failedBefore:
		l.logger.Error("the audit log cannot be written; calls fail until it can", "path", l.path, "error", err)
	case err == nil && (failedBefore || slowBefore):
		l.logger.Info("the audit log can be written again", "path", l.path)
	}
}

// The pauses between attempts to write after a failure, when no call comes. A broker
// that is not ready is sent none.
const (
	minProbe = time.Second
	maxProbe = 10 * time.Second
)

// probeNow has the writer find out whether the log can be written again: it writes a
// segment header.
func (l *Log) probeNow() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed == nil || l.closed {
		return
	}
	l.probe = true
	l.wake.Signal()
}

// commitTo returns how many of the batch's Writes are recorded: all of them if there
// is no error.
func (l *Log) commitTo(b *batch) (recorded int, err error) {
	if f, ok := l.w.(*os.File); ok && l.regular && removed(f) {
		// What is written to it would be gone with it. Only the writer changes failed.
		if l.failed == nil {
			l.logger.Error("the audit log's file was removed; going on in a new one", "path", l.path)
		}
		if err := l.reopen(); err != nil {
			return 0, err
		}
	}
	written := 0
	forCopies := l.forCopies[:0]
	for p, more := (progress{}), true; more && err == nil; {
		var n int
		more = l.chain(b, &p)
		n, err = l.w.Write(l.out)
		if err == nil && n < len(l.out) {
			err = io.ErrShortWrite
		}
		l.took(l.out[:n])
		written += n
		for recorded < p.marks && b.marks[recorded].outEnd <= n {
			recorded++
		}
		if len(l.copies) > 0 {
			forCopies = append(forCopies, l.out[:bytes.LastIndexByte(l.out[:n], '\n')+1]...)
		}
	}
	if f, ok := l.w.(interface{ Sync() error }); ok && written > 0 && l.sync && l.regular {
		delaySync()
		if e := f.Sync(); e != nil {
			// The kernel may have given up the pages: nothing of this is on disk
			// for sure, even if the next fsync succeeds.
			return 0, fmt.Errorf("force it to the disk: %w", e)
		}
	}
	for _, c := range l.copies {
		if e := c.Take(forCopies); e != nil && err == nil {
			recorded, err = 0, e
		}
	}
	if l.forCopies = forCopies; cap(forCopies) > 2*maxKept {
		l.forCopies = nil
	}
	return recorded, err
}

// progress is how far a batch has been chained: so many bytes of its lines, and so
// many of its marks.
type progress struct{ lines, marks int }

// maxPart is after how many bytes a part of a batch is written, so that the memory
// for chained lines does not grow with the calls under way.
const maxPart = 256 << 10

// chain makes l.out what is to be written next: the batch's lines from p on, chained,
// after what has to come before them. It reports whether there are more.
func (l *Log) chain(b *batch, p *progress) (more bool) {
	if cap(l.out) > 2*maxKept {
		l.out = nil
	}
	out, head := l.out[:0], l.head
	if l.midline {
		out = append(out, '\n')
		l.unchained.EndLine()
	}
	if l.header != "" {
		h := chain.NewSegmentHeader(l.header, l.linker, head, &l.unchained)
		out = l.linker.Seal(out, h.Encode(), &head)
	}
	chainTo := func(end int) {
		for p.lines < end {
			length := bytes.IndexByte(b.lines[p.lines:], '\n')
			out = l.linker.Seal(out, b.lines[p.lines:p.lines+length], &head)
			p.lines += length + 1
		}
	}
	for ; p.marks < len(b.marks) && len(out) < maxPart; p.marks++ {
		chainTo(b.marks[p.marks].end)
		b.marks[p.marks].outEnd = len(out)
	}
	if more = p.marks < len(b.marks); !more {
		chainTo(len(b.lines)) // of Writes that were told before it came to this
	}
	l.out = out
	return more
}

// took keeps track of what stands in the file: p is what of l.out was written.
func (l *Log) took(p []byte) {
	if len(p) == 0 {
		return
	}
	if l.midline {
		l.midline, p = false, p[1:]
	}
	end := bytes.LastIndexByte(p, '\n') + 1
	if end > 0 {
		start := bytes.LastIndexByte(p[:end-1], '\n') + 1
		l.tookRecord(p[start : end-1])
	}
	rest := p[end:]
	if len(rest) == 0 {
		return
	}
	l.midline = true
	if !l.tookRecord(rest) { // all of it but its newline
		l.unchained.Add(rest)
		if l.header == "" {
			l.header = chain.Torn
		}
	}
}

// tookRecord makes line the head if it is a whole record.
func (l *Log) tookRecord(line []byte) bool {
	_, head, ok := chain.Unseal(line)
	if !ok {
		return false
	}
	l.unchained.Reset()
	l.header = ""
	l.mu.Lock()
	l.records += head.Seq - l.head.Seq
	l.head = head
	l.mu.Unlock()
	return true
}
