package server

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/secretbroker/secretbroker/internal/budget"
)

const (
	// streamBytes and handlerBytes are the memory that gRPC and the broker use for a call
	// in addition to its message: while it is open, and while its handler runs.
	streamBytes  = 4 << 10
	handlerBytes = 8 << 10
	// memoryPollInterval is the interval at which wait checks whether a caller's memory is within
	// its share again.
	memoryPollInterval = 5 * time.Millisecond
	// pieceBytes is the memory that gRPC uses for a DATA frame in addition to its
	// payload, and headerCopies the number of copies of a header that it keeps.
	pieceBytes   = 128
	headerCopies = 2
	// largeRequest is the size of a request, in bytes, above which decoding takes much
	// CPU time.
	largeRequest = 2 << 10
	// rapidReset is the age of a call below which its reset counts as a rapid reset. A
	// principal may make resetsPerSecond of them, and resetBurst at once.
	rapidReset      = 20 * time.Millisecond
	resetsPerSecond = 100
	resetBurst      = 1000
	// controlPerSecond and controlBurst limit the PING, SETTINGS and PRIORITY frames of a
	// principal, because reading them costs CPU time. Each call allows controlPerCall
	// further frames: clients send a PING to measure the link when answers arrive, and
	// acknowledge gRPC's frames. At most maxControl allowances accumulate.
	controlPerSecond = 1000
	controlBurst     = 10_000
	controlPerCall   = 8
	maxControl       = 10_000
	// answerProgress is the number of bytes of answers that a peer must read between two
	// checks to count as reading.
	answerProgress = 16 << 10
)

// timeouts holds the maximum times that a peer may keep the broker waiting.
type timeouts struct {
	request time.Duration // until a request is complete
	write   time.Duration // until a write returns
	answer  time.Duration // until the peer has read an answer, or a part of it
	call    time.Duration // for the handler of a call; answer comes on top
	memory  time.Duration // until a caller's memory is within its share again
}

var defaultTimeouts = timeouts{request: 5 * time.Second, write: 10 * time.Second, answer: 15 * time.Second, call: maxCallTime, memory: time.Second}

// The reasons for closing a connection; they are labels of the metric.
var (
	errIncompleteRequest = errors.New("the peer did not complete a request in time")
	errNothingTaken      = errors.New("the peer does not read its answers")
	errRapidResets       = errors.New("the caller resets calls as soon as it has started them")
	errControlFrames     = errors.New("the peer sends too many PING, SETTINGS or PRIORITY frames")
	errTooMuchMemory     = errors.New("the caller uses more than its share of the broker's memory")
)

// traffic accounts for the memory that the peer of one connection makes the broker use:
// open calls, the bytes of their requests, and unsent answers. It charges all of it to the
// principal's account.
//
// gRPC reports a call only while its handler runs. Before that, gRPC holds the frames of
// incomplete requests, and afterwards the answers that the peer does not read; a peer can
// fill the broker's memory with either. So traffic parses the HTTP/2 frames of both
// directions itself, from the first byte read until the last byte is written or the
// connection is closed:
//
//   - received sees the bytes before gRPC does. It counts HEADERS, DATA and RST_STREAM
//     frames, and returns an error if the peer must be disconnected. While the principal
//     is over its share, the connection waits (wait) and reads nothing: TCP's flow control
//     then stops the peer.
//   - writes sees the bytes before they are written, and ends the calls whose last frame is
//     among them.
//   - update compares the sum with what is charged, and charges or releases the difference.
//   - check runs periodically and reports peers that keep a request incomplete or do not
//     read their answers.
//
// The parser needs only the frame headers: kind, length, flags and stream.
//
// The zero traffic counts but charges no account.
type traffic struct {
	account *budget.Account
	resets  *rate.Limiter // shared by the principal's connections
	control *rate.Limiter // shared by the principal's connections

	// incomplete is the number of incomplete requests.
	incomplete atomic.Int64
	// handlers is the number of running handlers, streaming those of streams, and openEnded
	// those of streams whose requests may stay incomplete.
	handlers, streaming, openEnded atomic.Int64
	// goingAway ends when the connection announces its end to the peer; nil in the zero
	// traffic. announce ends it.
	goingAway context.Context
	announce  context.CancelFunc
	// apart is the number of running handlers of unary calls that are limited separately.
	apart atomic.Int64
	// large reports that the requests of the open calls are large on average.
	large atomic.Bool
	// writeBegan is the start of the current write in Unix nanoseconds, or 0.
	writeBegan atomic.Int64

	mu      sync.Mutex
	in, out frames
	streams map[uint32]stream // open streams
	last    uint32            // the highest stream id so far
	credit  int               // control frames that calls still allow
	bytes   int64             // sum of the open streams' bytes
	// held is the number of streams that the peer has reset during the current write:
	// gRPC keeps them until the write returns.
	held    int64
	sent    int64 // bytes of answers written so far
	charged int64 // bytes charged to the account
	opened  int64 // this connection's part of account.Open
	closed  bool
	answers map[*answer]struct{}
	// sentBefore is sent at the last check. stuck reports that an answer waited then.
	sentBefore int64
	stuck      bool
}

// stream is an open call.
type stream struct {
	since    time.Time
	bytes    int64
	complete bool // the request is complete
}

// received accounts for bytes from the peer, before gRPC sees them. It returns an error if
// the connection must be closed.
func (t *traffic) received(b []byte, now time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var err error
	for {
		f, rest, ok := t.in.next(b)
		if b = rest; !ok {
			break
		}
		switch f.kind {
		case frameHeaders, frameContinuation:
			t.headers(f, now)
		case frameData:
			t.data(f)
		case framePing, frameSettings, framePriority:
			if t.credit > 0 {
				t.credit--
			} else if t.control != nil && !t.control.AllowN(now, 1) {
				err = errControlFrames
			}
		case frameReset:
			if s, open := t.streams[f.stream]; open {
				t.end(f.stream, s)
				if t.writeBegan.Load() != 0 {
					t.held++
				}
				if t.resets != nil && now.Sub(s.since) < rapidReset && !t.resets.AllowN(now, 1) {
					err = errRapidResets
				}
			}
		}
	}
	if !t.update() && err == nil {
		err = errTooMuchMemory
	}
	return err
}

// wait waits until the principal's memory is within its share again, because calls have
// ended. Meanwhile the connection reads nothing from the peer. wait returns false if that
// takes longer than most.
func (t *traffic) wait(most time.Duration) bool {
	tick := time.NewTicker(memoryPollInterval)
	defer tick.Stop()
	for end := time.Now().Add(most); ; <-tick.C {
		t.mu.Lock()
		within := t.update() && (t.closed || t.account.Charge(0))
		t.mu.Unlock()
		if within {
			return true
		}
		if !time.Now().Before(end) {
			return false
		}
	}
}

// hasRoom reports whether the principal may have one more call that waits for its request.
// It keeps a margin to the share, because the connection reads nothing beyond the share.
func (t *traffic) hasRoom() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.update()
	return t.account.Fits(handlerBytes)
}

// headers records the start of a call, or further headers. It requires the lock.
func (t *traffic) headers(f frame, now time.Time) {
	s, open := t.streams[f.stream]
	if !open {
		if f.kind != frameHeaders || f.stream <= t.last || f.stream%2 == 0 {
			return // gRPC refuses it
		}
		t.last = f.stream
		t.credit = min(t.credit+controlPerCall, maxControl)
		s.since = now
		t.incomplete.Add(1)
	}
	t.more(f, s, headerCopies*int64(f.length))
}

// data records bytes of a request. It requires the lock.
func (t *traffic) data(f frame) {
	if s, open := t.streams[f.stream]; open {
		n := int64(f.length)
		if n > 0 {
			n += pieceBytes
		}
		t.more(f, s, n)
	}
}

// more records n further bytes of a request, and its end. It requires the lock.
func (t *traffic) more(f frame, s stream, n int64) {
	s.bytes += n
	t.bytes += n
	if f.flags&flagEndStream != 0 && f.kind != frameContinuation && !s.complete {
		s.complete = true
		t.incomplete.Add(-1)
	}
	if t.streams == nil {
		t.streams = make(map[uint32]stream)
	}
	t.streams[f.stream] = s
}

// end removes a call. It requires the lock.
func (t *traffic) end(id uint32, s stream) {
	delete(t.streams, id)
	t.bytes -= s.bytes
	if !s.complete {
		t.incomplete.Add(-1)
	}
}

// writes accounts for bytes that are about to be written.
func (t *traffic) writes(b []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		f, rest, ok := t.out.next(b)
		if b = rest; !ok {
			break
		}
		if f.kind == frameData {
			t.sent += int64(f.length)
		}
		if f.kind == frameGoAway && t.announce != nil {
			t.announce()
		}
		if f.kind == frameReset || f.kind == frameHeaders && f.flags&flagEndStream != 0 {
			if s, open := t.streams[f.stream]; open {
				t.end(f.stream, s)
			}
		}
	}
	t.update()
	t.writeBegan.Store(time.Now().UnixNano())
}

// written records that the write has returned.
func (t *traffic) written() {
	t.writeBegan.Store(0)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held > 0 {
		t.held = 0
		t.update()
	}
}

// update charges or releases the difference to what is charged already. It returns false if
// the principal exceeds its share. It requires the lock.
func (t *traffic) update() bool {
	if t.account == nil || t.closed {
		return true
	}
	open := int64(len(t.streams)) + t.held
	if calls := open - t.streaming.Load() - t.apart.Load(); calls != t.opened {
		t.account.Open.Add(calls - t.opened)
		t.opened = calls
	}
	t.large.Store(t.bytes > largeRequest*int64(len(t.streams)))
	want := open*streamBytes + t.handlers.Load()*handlerBytes + t.bytes
	more := want - t.charged
	t.charged = want
	if more > 0 {
		return t.account.Charge(more)
	}
	if more < 0 {
		t.account.Release(-more)
	}
	return true
}

// check returns the reason for which the connection must be closed, nil if there is none.
// One goroutine calls it periodically.
func (t *traffic) check(now time.Time, p timeouts) error {
	if began := t.writeBegan.Load(); began != 0 && now.Sub(time.Unix(0, began)) >= p.write {
		return errNothingTaken
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var late, old, expired int64
	for _, s := range t.streams {
		age := now.Sub(s.since)
		if !s.complete && age >= p.request {
			late++
		}
		if age >= p.answer {
			old++
		}
		if age >= p.call+p.answer {
			expired++
		}
	}
	handlers, lasting := t.handlers.Load(), t.streaming.Load()
	if late > t.openEnded.Load() {
		return errIncompleteRequest
	}
	// If more calls are old than handlers run, an answer waits, or the end of a stream. It
	// may have started to wait just now, so the next check decides.
	stuck := old > handlers && t.sent-t.sentBefore < answerProgress || expired > lasting
	if stuck && t.stuck {
		return errNothingTaken
	}
	t.stuck, t.sentBefore = stuck, t.sent
	if int64(len(t.streams))+t.held <= handlers {
		// No answer waits, so gRPC has dropped all answers that are still charged. That
		// happens if the peer resets a call at the moment of its answer.
		for a := range t.answers {
			t.release(a, 0)
		}
	}
	t.update()
	return nil
}

// close releases everything that is charged.
func (t *traffic) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.announce != nil {
		t.announce()
	}
	if t.account == nil || t.closed {
		return
	}
	for a := range t.answers {
		t.release(a, 0)
	}
	clear(t.streams)
	t.closed = true
	t.account.Open.Add(-t.opened)
	t.account.Release(t.charged)
}
