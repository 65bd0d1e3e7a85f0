package watch

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// State is the state of an item in a Notice.
type State uint8

// The states.
const (
	// unsaid: the stream has said nothing about the item.
	unsaid State = iota
	// Current: the caller has this version, or it is the first one that the caller is told.
	Current
	// Changed: the caller has another version.
	Changed
	// Denied: the caller may not watch the secret, or there is no such integration.
	Denied
	// Unreadable: the secret cannot be read, or has no versions.
	Unreadable
	// Expiring: the validity of the version ends soon.
	Expiring
	numStates
)

// States are the states of notices.
var States = [...]State{Current, Changed, Denied, Unreadable, Expiring}

func (s State) String() string {
	return [numStates]string{"", "CURRENT", "CHANGED", "DENIED", "UNREADABLE", "EXPIRING"}[s]
}

// Notice is a new state of an item.
type Notice struct {
	// Item is the index of the item in the call of Open.
	Item  int
	State State
	// Before is the item's previous state; 0 if this is the first.
	Before State
	// Version, ReadAt and ExpiresAt are those of the secret. They are zero if State is
	// Denied, and Version and ExpiresAt also if it is Unreadable.
	Version           string
	ReadAt, ExpiresAt time.Time
	// Err is why the item is Denied or Unreadable.
	Err *secret.Error
	// Decision is the decision on which the notice is based.
	Decision Decision
	// Ref is the reference of the item.
	Ref secret.Ref
}

// item is one item of a stream. Hub.mu guards it, except key and decoding, which do not
// change, and the fields from said on, which the stream's goroutine owns.
type item struct {
	stream   *Stream
	target   *target
	index    int    // in Stream.items
	at       int    // in target.items
	key      string // the JSON key of the reference
	decoding secret.Decoding
	allowed  bool
	marked   bool // is in Stream.queue
	delayed  bool // is in Stream.delayed

	said     State
	expiring bool          // the end of version was said
	lost     bool          // Denied was said, and no version since
	reason   secret.Reason // of the last Denied or Unreadable
	version  string        // that the caller has
	due      time.Time     // of the notice of a change that waits; zero for none
	// changedAt is when the last change was said, since Hub.began; 0 if none was.
	changedAt time.Duration
}

// MaxNotices is the maximum number of notices that Next returns.
const MaxNotices = 200

// Stream is the items that one caller watches. Only one goroutine may call Next.
type Stream struct {
	hub *Hub
	who authz.Principal
	// splay is the delay of this stream's notices of changes.
	splay time.Duration
	wake  chan struct{} // capacity 1
	// items is made with its final capacity, because targets refer to its elements.
	items []item

	// queue has the marked items, and delayed those whose notice has to wait until
	// resumeAt. Hub.mu guards them.
	queue, delayed []*item
	resumeAt       time.Time

	unsaid   int // items about which nothing was said
	complete bool
	closed   bool
}

func newStream(h *Hub, who authz.Principal, n int) *Stream {
	s := &Stream{hub: h, who: who, wake: make(chan struct{}, 1), items: make([]item, 0, n), unsaid: n}
	if h.cfg.Splay > 0 {
		s.splay = time.Duration(rand.Int64N(int64(h.cfg.Splay))) //nolint:gosec // spreads load
	}
	return s
}

// mark makes the stream compare an item with what it has said. It requires Hub.mu.
func (s *Stream) mark(it *item) {
	if it.marked {
		return
	}
	it.marked = true
	s.queue = append(s.queue, it)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Close ends the stream.
func (s *Stream) Close() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if !s.closed {
		s.closed = true
		s.hub.remove(s)
		s.queue, s.delayed = nil, nil
	}
}

// Next waits until there is something to say and returns it: at most MaxNotices notices.
// complete is true once, when every item has been said. The caller sends the notices before
// it calls Next again: each is decided now. The error is that of ctx.
func (s *Stream) Next(ctx context.Context) (notices []Notice, complete bool, err error) {
	var timer *time.Timer
	defer func() {
		if timer != nil {
			timer.Stop()
		}
	}()
	for {
		if err := ctx.Err(); err != nil {
			return nil, false, err
		}
		batch, wait := s.take()
		notices = s.compare(batch)
		if s.unsaid == 0 && !s.complete {
			s.complete, complete = true, true
		}
		if len(notices) > 0 || complete {
			return notices, complete, nil
		}
		if len(batch) > 0 {
			continue
		}
		var resume <-chan time.Time
		if wait > 0 {
			if timer == nil {
				timer = time.NewTimer(wait)
			} else {
				timer.Reset(wait)
			}
			resume = timer.C
		}
		select {
		case <-ctx.Done():
		case <-s.wake:
			s.gather(ctx)
		case <-resume:
		}
	}
}

// gatherTime is how long a stream that is not complete waits for further items. When a broker
// has just started, the reads of a stream's secrets end one after the other, and each would be
// a message.
const gatherTime = 25 * time.Millisecond

// gather waits for further marked items, if the stream is not complete.
func (s *Stream) gather(ctx context.Context) {
	if s.unsaid == 0 {
		return
	}
	timer := time.NewTimer(gatherTime)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// take returns marked items, and the time until delayed ones may continue; 0 if there are
// none.
func (s *Stream) take() (batch []*item, wait time.Duration) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if len(s.delayed) > 0 {
		if wait = time.Until(s.resumeAt); wait <= 0 {
			for _, it := range s.delayed {
				it.delayed = false
				s.mark(it)
			}
			s.delayed, wait = nil, 0
		}
	}
	n := min(len(s.queue), MaxNotices)
	batch = s.queue[:n:n]
	if s.queue = s.queue[n:]; len(s.queue) == 0 {
		s.queue = nil
	}
	for _, it := range batch {
		it.marked = false
	}
	return batch, wait
}

// ref returns the reference of an item.
func (it *item) ref() secret.Ref {
	ref := it.target.ref
	ref.Key, ref.Decoding = it.key, it.decoding
	return ref
}

// compare decides about items and returns the notices about those whose state is new.
func (s *Stream) compare(batch []*item) []Notice {
	if len(batch) == 0 {
		return nil
	}
	// Decide without the lock: the registry may wait, and it calls the Hub.
	decisions := make([]Decision, len(batch))
	for i, it := range batch {
		decisions[i] = s.hub.reader.Decide(s.who, it.target.key.Integration, it.ref())
	}
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	var notices []Notice
	now := time.Now()
	for i, it := range batch {
		d := decisions[i]
		switch {
		case d.Temporary: // decide again soon: the next read marks the item only if it differs
			s.delay(it, now.Add(retryInterval))
		case d.Denied == nil && d.Unreadable == nil:
			s.hub.allow(it, &d)
		default:
			s.hub.disallow(it)
		}
		n, due := s.judge(it, d, now)
		if !due.IsZero() {
			s.delay(it, due)
			continue
		}
		if n.State == unsaid {
			continue
		}
		n.Item, n.Before, n.Decision, n.Ref = it.index, it.said, d, it.ref()
		if it.said == unsaid {
			s.unsaid--
		}
		s.say(it, &n, now)
		notices = append(notices, n)
	}
	return notices
}

// delay lets an item wait until due. It requires Hub.mu.
func (s *Stream) delay(it *item, due time.Time) {
	if len(s.delayed) == 0 || due.Before(s.resumeAt) {
		s.resumeAt = due
	}
	if !it.delayed {
		it.delayed = true
		s.delayed = append(s.delayed, it)
	}
}

// say records that a notice is sent. It requires Hub.mu.
func (s *Stream) say(it *item, n *Notice, now time.Time) {
	s.hub.stats.Notices[n.State]++
	it.said, it.reason, it.due = n.State, "", time.Time{}
	if n.Err != nil {
		it.reason, it.lost = n.Err.Reason, it.lost || n.State == Denied
		return
	}
	it.lost = false
	if n.State == Changed {
		it.changedAt = now.Sub(s.hub.began)
		s.hub.cfg.Lag(now.Sub(it.target.learnedAt))
	}
	if n.State == Expiring {
		it.expiring = true
		return
	}
	if it.version != n.Version || !s.hub.near(it.target, now) {
		it.expiring = false
	}
	it.version = n.Version
	if !it.expiring && s.hub.near(it.target, now) {
		s.mark(it)
	}
}

// judge compares an item with what was said about it. The zero State means that there is
// nothing to say, now or, if due is set, before that time. It requires Hub.mu.
func (s *Stream) judge(it *item, d Decision, now time.Time) (n Notice, due time.Time) {
	t := it.target
	failed := func(state State, err *secret.Error, readAt time.Time) (Notice, time.Time) {
		if it.said == state && it.reason == err.Reason {
			return Notice{}, time.Time{}
		}
		return Notice{State: state, Err: err, ReadAt: readAt}, time.Time{}
	}
	switch {
	case d.Denied != nil:
		return failed(Denied, d.Denied, time.Time{})
	case d.Temporary && it.lost:
		return Notice{}, time.Time{} // it is not known that the caller may watch again
	case d.Unreadable != nil:
		return failed(Unreadable, d.Unreadable, time.Time{})
	case !t.known, t.revision != d.ReadRevision: // the integration reads otherwise now; allow has asked for a read
		return Notice{}, time.Time{}
	case t.err != nil:
		return failed(Unreadable, t.err, t.readAt)
	}
	n = Notice{Version: t.version, ReadAt: t.readAt, ExpiresAt: t.expiresAt}
	if it.version == t.version {
		it.due = time.Time{}
	}
	switch {
	case it.lost:
		n.State = Changed // the caller may have dropped what it had
	case it.version == "", it.version == t.version && (it.said == unsaid || it.said == Unreadable):
		n.State = Current
	case it.version != t.version:
		n.State = Changed
		if it.due.IsZero() { // later changes do not delay the notice further
			it.due = s.changeDue(it)
		}
		if it.said != unsaid && now.Before(it.due) {
			return Notice{}, it.due
		}
	case s.hub.near(t, now) == it.expiring:
		return Notice{}, time.Time{}
	case it.expiring: // the end has moved
		n.State = Current
	default:
		n.State = Expiring
	}
	return n, time.Time{}
}
