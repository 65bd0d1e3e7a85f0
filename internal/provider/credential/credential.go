// Package credential holds the credentials that integrations are logged in with: access
// tokens, session keys, a Vault token. All kinds of stores use it.
//
// A kind says how to acquire a credential (Config.Acquire). A Source decides when:
//
//   - Once for all. Calls of Get that arrive during an acquisition wait for its result.
//     The acquisition has its own timeout and does not end with a caller's context.
//   - Ahead of time. While a credential is in use, a timer acquires its successor before
//     it ends, so reads do not wait. "In use" means that Get was called during its life.
//     A credential that cannot be acquired again once it has ended (Config.Keep) is
//     renewed for as long as the Source is open.
//   - Not in a loop. A failure is the answer to every Get until a pause is over. The
//     pause doubles with each further failure, and is longer after a refusal than after
//     an outage: an identity provider may lock an identity that keeps asking. Changed
//     files end the pause (Config.Inputs).
//   - Again after a store refused it. Refused drops a credential that a store does not
//     accept although it has not ended. The pauses grow here, too: a store that refuses
//     everything does not cause one login per read.
//
// Lives and pauses are measured with package elapsed, because the machine may be
// suspended and its clock may be set.
//
// The package knows no store, no protocol and no message to people.
package credential

import (
	"context"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/elapsed"
	"github.com/secretbroker/secretbroker/internal/provider/task"
)

const (
	// RefusalPause is how long a first definite refusal is the answer to everybody.
	// Each further one in a row doubles the pause, up to MaxRefusalPause, which is
	// also the longest time that a credential which has been put right elsewhere, such
	// as a role that has been granted meanwhile, is not tried again. One whose files
	// have changed is tried with the next Get.
	RefusalPause = 5 * time.Second
	// MaxRefusalPause is the longest pause after a refusal.
	MaxRefusalPause = time.Minute
	// OutagePause and MaxOutagePause are those after failures of another kind.
	OutagePause = time.Second
	// MaxOutagePause is the longest pause after an outage that asked for no longer one.
	MaxOutagePause = 10 * time.Second
	// leastInterval is the least time between two renewals by the clock.
	leastInterval = time.Second
)

// Held is a credential. It does not change.
type Held[T any] struct {
	Value T
	// Began is when it was asked for or, if the other side gave an instant for its end,
	// when that instant was compared with the clock.
	Began time.Time
	// Life is how long after Began the credential ends; zero for never.
	Life time.Duration
}

// Config is what a Source is made of. Acquire, Tasks, Timeout and Closed are required.
type Config[T any] struct {
	// Acquire gets a credential: the successor of last, which is still good, or a first
	// one if last is nil. Its error is what Get returns, and best a *secret.Error: the
	// reason tells outages from refusals, and a RetryAfter is honoured. A panic is an
	// error.
	Acquire func(ctx context.Context, last *Held[T]) (*Held[T], error)
	// Timeout bounds one Acquire.
	Timeout time.Duration
	// Tasks run the acquisitions. Once they are stopped, Get returns Closed unless a
	// good credential is at hand.
	Tasks  *task.Group
	Closed error
	// Margin is how long before its end a credential of that life is no longer used,
	// Ahead how long before its end its successor is asked for. Nil means zero, and a
	// third of its life.
	Margin, Ahead func(life time.Duration) time.Duration
	// Keep has the credential renewed for as long as the Source is open, since one that
	// has ended cannot be acquired again. Otherwise it is renewed if it has been used since
	// it was got: it ends, at the latest, one life after the one in which it was used.
	Keep bool
	// Inputs, if not nil, tells apart the contents of the files that Acquire reads, see
	// Files: when they have changed, a failure no longer counts.
	Inputs func() uint64
	// Failed, if not nil, is told of each failure of Acquire but those by stopping.
	Failed func(error)
	// Now is the clock that lives are measured with; nil means time.Now.
	Now func() time.Time
}

// Source holds one credential. It is safe for concurrent use, and must be closed.
type Source[T any] struct {
	cfg Config[T]

	mu      sync.Mutex
	held    *Held[T] // the latest, unless it was refused
	used    bool     // since it was got
	ahead   time.Duration
	running *attempt[T]
	failed  *failure // the latest attempt's; nil if it succeeded
	timer   *time.Timer
	closed  bool

	refusals int       // of credentials by stores, in a row
	dropped  time.Time // when one was last dropped because of that
}

// attempt is one run of Acquire. Its result may be read once done is closed.
type attempt[T any] struct {
	done   chan struct{}
	wanted bool // somebody needs its result, now or soon; guarded by Source.mu
	held   *Held[T]
	err    error
}

// New makes a Source, which asks for nothing yet.
func New[T any](cfg Config[T]) *Source[T] {
	if cfg.Margin == nil {
		cfg.Margin = func(time.Duration) time.Duration { return 0 }
	}
	if cfg.Ahead == nil {
		cfg.Ahead = func(life time.Duration) time.Duration { return life / 3 }
	}
	if cfg.Failed == nil {
		cfg.Failed = func(error) {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Source[T]{cfg: cfg}
}

// Get returns a credential that is good now. It waits for one no longer than ctx, and
// not at all while one is at hand. The error is Acquire's, of this or an earlier
// attempt, ctx's, or Config.Closed.
func (s *Source[T]) Get(ctx context.Context) (*Held[T], error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	held, a, err := s.next()
	if a == nil {
		return held, err
	}
	select {
	case <-a.done: // a result is not given up because ctx has ended too
		return a.held, a.err
	default:
	}
	select {
	case <-a.done:
		return a.held, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// next returns the result of a Get: a credential, the attempt to wait for, or an
// error.
func (s *Source[T]) next() (*Held[T], *attempt[T], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	s.used = true
	a := s.running
	if s.good(now) {
		if a == nil && s.due(now) && !s.pausing(now) { // the clock has stood still
			a = s.start(false)
		}
		if a != nil {
			a.wanted = true // by who will come again
		}
		return s.held, nil, nil
	}
	if a == nil {
		pausing := s.pausing(now)
		if pausing && s.cfg.Inputs == nil {
			return nil, nil, s.failed.tell(now)
		}
		if a = s.start(pausing); a == nil {
			return nil, nil, s.cfg.Closed
		}
	}
	a.wanted = true
	return nil, a, nil
}

// Begin sees to it that there is a credential, without waiting for it: for a Source
// that keeps one.
func (s *Source[T]) Begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	if s.running == nil && !s.good(now) && !s.pausing(now) {
		s.start(false)
	}
}

// Touch says that the credential is in use though Get is not called: something else
// holds on to what Get returned.
func (s *Source[T]) Touch() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = true
}

// Refused says that a store did not take a credential. It reports whether Get may give
// another one: at first at once, then after pauses that grow as those after refusals
// do, so that a store which refuses all of them does not have new ones made with each
// read.
func (s *Source[T]) Refused(held *Held[T]) bool {
	return s.refused(func(h *Held[T]) bool { return h == held })
}

// RefusedValue is Refused for the credential whose value is the one.
func (s *Source[T]) RefusedValue(is func(T) bool) bool {
	return s.refused(func(h *Held[T]) bool { return h != nil && is(h.Value) })
}

func (s *Source[T]) refused(is func(*Held[T]) bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == nil || !is(s.held) {
		return true // another Fetch has said so
	}
	now := s.cfg.Now()
	if !s.replaceable(now) {
		return false
	}
	if elapsed.Between(s.dropped, now) > 2*MaxRefusalPause {
		s.refusals = 0
	}
	s.held, s.dropped = nil, now
	s.refusals++
	s.stopTimer()
	return true
}

// Replaceable reports whether Refused would give up the credential at hand by now.
func (s *Source[T]) Replaceable() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.replaceable(s.cfg.Now())
}

func (s *Source[T]) replaceable(now time.Time) bool {
	return s.dropped.IsZero() || elapsed.Between(s.dropped, now) >= refusalLimits.After(s.refusals)
}

// Forget drops the credential if it is one: the next Get asks for another one. It is
// for callers who know that another one is available.
func (s *Source[T]) Forget(is func(T) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held != nil && is(s.held.Value) {
		s.held = nil
		s.stopTimer()
	}
}

// Close ends the renewal by the clock. What is at hand can still be used, and
// acquisitions under way end with the Tasks.
func (s *Source[T]) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.stopTimer()
}
