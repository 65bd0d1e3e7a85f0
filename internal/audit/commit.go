package audit

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit/chain"
)

// commit writes the batch and completes it. If a write fails halfway, the Writes whose
// lines were written in full before the error are recorded, and the others fail.
//
// Only the writer calls it. It locks mu after the I/O, to publish the result.
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
	if l.current == b { // otherwise abandon has completed it
		l.current = nil
		l.complete(b, recorded, err)
	}
	if err == nil {
		l.probePause = 0
		l.probing.Stop()
	} else {
		l.probePause = min(max(2*l.probePause, minProbe), maxProbe)
		l.probing.Reset(l.probePause)
	}
	l.mu.Unlock()
	// Log changes of the state only: ten thousand calls may fail in a second.
	switch {
	case err != nil && !failedBefore:
		l.logger.Error("the audit log cannot be written; calls fail until it can", "path", l.path, "error", err)
	case err == nil && (failedBefore || slowBefore):
		l.logger.Info("the audit log can be written again", "path", l.path)
	}
}

// The pauses between the writer's own attempts after a failure. They matter when no calls
// come: a load balancer sends none to a broker that is not ready.
const (
	minProbe = time.Second
	maxProbe = 10 * time.Second
)

// probeNow makes the writer test whether the log can be written again, by writing a
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

// commitTo chains and writes the batch, calls fsync, and sends the copies. It returns how
// many of the batch's Writes are recorded: all of them if there is no error.
//
// A failed fsync fails the whole batch: the kernel may have dropped the pages, and a later
// fsync that succeeds would not prove that they are on the disk. The records stay part of
// the chain, because they may be in the file. A failed write leaves a partial line, which
// the segment header of the next write declares (see took).
func (l *Log) commitTo(b *batch) (recorded int, err error) {
	if f, ok := l.w.(*os.File); ok && l.regular && removed(f) {
		// Records in a file without a name would be lost. Reading failed without mu is
		// safe, because only the writer changes it.
		if l.failed == nil {
			l.logger.Error("the audit log's file was removed; continuing in a new file", "path", l.path)
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
			return 0, fmt.Errorf("fsync: %w", e)
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

// progress is how far a batch has been chained, in bytes of its lines and in its marks.
type progress struct{ lines, marks int }

// maxPart is the size from which a part of a batch is written, in bytes. It keeps the
// memory for chained lines from growing with the number of calls.
const maxPart = 256 << 10

// chain fills l.out with the next part to write: the batch's lines from p on, with their
// chain values. Before them it puts the newline that ends a partial line, and a segment
// header if one is due. It reports whether the batch has more lines.
//
// It does not change l.head: took does, for what was really written.
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
	if p.lines == 0 {
		b.first = head.Seq + 1
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
		chainTo(len(b.lines)) // lines of Writes that abandon has failed; they have no marks
	}
	l.out = out
	return more
}

// took updates the writer's state after a write: p is the part of l.out that is in the
// file. The last whole record in p becomes the head. The rest, after an error, is a partial
// line: it becomes part of unchained, and the next write begins with a segment header that
// declares it. So the chain continues after a full disk, and a verifier can tell a partial
// line from a removed record.
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
	if !l.tookRecord(rest) { // it may be a record without its newline
		l.unchained.Add(rest)
		if l.header == "" {
			l.header = chain.Torn
		}
	}
}

// tookRecord makes line the head if it is a whole record, and reports whether it is.
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
