package server

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/secretbroker/secretbroker/internal/budget"
)

const (
	// streamBytes and handlerBytes are what gRPC and the broker keep of a call
	// beside its message, while it is open and while it is worked on.
	streamBytes  = 4 << 10
	handlerBytes = 8 << 10
	// memoryLook is how often it is looked whether a caller beyond its share is within
	// it again.
	memoryLook = 5 * time.Millisecond
	// pieceBytes is what gRPC keeps of a piece of a request beside its bytes, and
	// headerCopies how often it keeps those of a header.
	pieceBytes   = 128
	headerCopies = 2
	// largeRequest is how many bytes a request has to have for decoding it to take much
	// CPU time.
	largeRequest = 2 << 10
	// rapidReset is how soon after its beginning the end of a call counts as a rapid
	// reset; a principal may have so many per second, and so many at once.
	rapidReset      = 20 * time.Millisecond
	resetsPerSecond = 100
	resetBurst      = 1000
	// controlPerSecond and controlBurst bound the PING, SETTINGS and PRIORITY frames of
	// a principal that come without calls: reading them costs CPU. Each call allows for
	// controlPerCall more, because clients measure the link with a PING for answers that
	// arrive and acknowledge those of gRPC; at most maxControl are saved up.
	controlPerSecond = 1000
	controlBurst     = 10_000
	controlPerCall   = 8
	maxControl       = 10_000
	// answerProgress is how many bytes of its answers a peer has to take between two
	// checks to be taking them.
	answerProgress = 16 << 10
)

// patience is how long a connection may keep the broker waiting.
type patience struct {
	request time.Duration // for the end of a request that has begun
	write   time.Duration // for a write to be taken
	answer  time.Duration // for an answer to be taken, or for some of it
	call    time.Duration // for the broker's work on a call, and answer for the rest
	memory  time.Duration // for a caller to come back within its share of memory
}

var defaultPatience = patience{request: 5 * time.Second, write: 10 * time.Second, answer: 15 * time.Second, call: maxCallTime, memory: time.Second}

// The reasons for which a connection is cut off; the metric's labels.
var (
	errIncompleteRequest = errors.New("a request was not complete in time")
	errNothingTaken      = errors.New("the peer does not take its answers")
	errRapidResets       = errors.New("the caller resets calls as soon as it has begun them")
	errControlFrames     = errors.New("the peer sends PING, SETTINGS or PRIORITY frames without end")
	errTooMuchMemory     = errors.New("the caller makes the broker keep more than its share of memory")
)

// traffic is what the peer of one connection makes the broker keep: open calls, the
// bytes of their requests, and answers that have not left. All of it is charged to
// the principal's account, from the first byte read until the last byte is handed
// to the kernel or the connection is closed. It sees what gRPC reads and writes,
// because gRPC tells of a call only while a handler works on it.
//
// The zero traffic counts, and charges nobody.
type traffic struct {
	account *budget.Account
	resets  *rate.Limiter // of the principal
	control *rate.Limiter // of the principal

	// incomplete is how many requests have begun and not ended.
	incomplete atomic.Int64
	// handlers is how many calls are worked on, streaming those that last.
	handlers, streaming atomic.Int64
	// apart is how many handlers work on calls that are counted apart and do not last.
	apart atomic.Int64
	// large says that the open calls' requests are large on average.
	large atomic.Bool
	// writeBegan is when the write under way began, in Unix nanoseconds, or 0.
	writeBegan atomic.Int64

	mu      sync.Mutex
	in, out frames
	streams map[uint32]stream // the open ones
	last    uint32            // the highest stream
	credit  int               // control frames that calls have allowed for
	bytes   int64             // of the open streams' requests
	// held are streams that the peer has reset during the write under way: gRPC
	// keeps them until the write is taken.
	held    int64
	sent    int64 // bytes of answers
	charged int64 // to the account
	opened  int64 // the account's Open has of this connection
	closed  bool
	answers map[*answer]struct{}
	// sentBefore is sent at the last check; stuck says that an answer waited then.
	sentBefore int64
	stuck      bool
}

// stream is an open call.
type stream struct {
	since    time.Time
	bytes    int64
	complete bool // the request
}

// received looks at bytes that the peer has sent, before gRPC does. The error says
// why the connection is to be cut off.
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
	if !t.settle() && err == nil {
		err = errTooMuchMemory
	}
	return err
}

// wait waits until the principal is within its share of memory again: calls end, and
// until then nothing more is read from the peer. It is false if that takes too long.
func (t *traffic) wait(most time.Duration) bool {
	tick := time.NewTicker(memoryLook)
	defer tick.Stop()
	for end := time.Now().Add(most); ; <-tick.C {
		t.mu.Lock()
		within := t.settle() && (t.closed || t.account.Charge(0))
		t.mu.Unlock()
		if within {
			return true
		}
		if !time.Now().Before(end) {
			return false
		}
	}
}

// hasRoom reports whether the principal may have one more call that waits for its
// request, without coming so near to its share that it would not be read from.
func (t *traffic) hasRoom() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settle()
	return t.account.Fits(handlerBytes)
}

// headers notes a call that begins, or more of its headers. The lock is held.
func (t *traffic) headers(f frame, now time.Time) {
	s, open := t.streams[f.stream]
	if !open {
		if f.kind != frameHeaders || f.stream <= t.last || f.stream%2 == 0 {
			return // which gRPC refuses
		}
		t.last = f.stream
		t.credit = min(t.credit+controlPerCall, maxControl)
		s.since = now
		t.incomplete.Add(1)
	}
	t.more(f, s, headerCopies*int64(f.length))
}

// data notes bytes of a request. The lock is held.
func (t *traffic) data(f frame) {
	if s, open := t.streams[f.stream]; open {
		n := int64(f.length)
		if n > 0 {
			n += pieceBytes
		}
		t.more(f, s, n)
	}
}

// more notes n more bytes of a request, and its end. The lock is held.
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

// end forgets a call. The lock is held.
func (t *traffic) end(id uint32, s stream) {
	delete(t.streams, id)
	t.bytes -= s.bytes
	if !s.complete {
		t.incomplete.Add(-1)
	}
}

// writes looks at bytes that are about to be written.
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
		if f.kind == frameReset || f.kind == frameHeaders && f.flags&flagEndStream != 0 {
			if s, open := t.streams[f.stream]; open {
				t.end(f.stream, s)
			}
		}
	}
	t.settle()
	t.writeBegan.Store(time.Now().UnixNano())
}

// written says that the write has been taken.
func (t *traffic) written() {
	t.writeBegan.Store(0)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held > 0 {
		t.held = 0
		t.settle()
	}
}

// settle brings the account up to date. It is false if the principal is beyond its
// share. The lock is held.
func (t *traffic) settle() bool {
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

// check says why the connection is to be cut off, nil if it may go on. It is called
// again and again by one goroutine.
func (t *traffic) check(now time.Time, p patience) error {
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
	if late > lasting { // a stream may last, and its request with it
		return errIncompleteRequest
	}
	// Where more calls are old than are worked on, an answer waits. It may have begun
	// to wait just now, so the next check decides.
	stuck := old > handlers && t.sent-t.sentBefore < answerProgress
	if expired > lasting || stuck && t.stuck {
		return errNothingTaken
	}
	t.stuck, t.sentBefore = stuck, t.sent
	if int64(len(t.streams))+t.held <= handlers {
		// No answer waits, so whatever is charged for one has been dropped unseen:
		// gRPC does so with an answer to a call that was reset that very moment.
		for a := range t.answers {
			t.release(a, 0)
		}
	}
	t.settle()
	return nil
}

// close releases whatever is charged.
func (t *traffic) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
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
