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
	// RefusalPause is how long every Get returns the error of a first refusal. Each
	// further refusal in a row doubles the pause, up to MaxRefusalPause. A refusal
	// that is fixed elsewhere, for example by granting a role, therefore takes effect
	// after MaxRefusalPause at the latest. A credential whose files have changed is
	// tried with the next Get.
	RefusalPause = 5 * time.Second
	// MaxRefusalPause is the longest pause after a refusal.
	MaxRefusalPause = time.Minute
	// OutagePause is the first pause after a failure of another kind.
	OutagePause = time.Second
	// MaxOutagePause is the longest pause after an outage, unless the error asks for
	// a longer one.
	MaxOutagePause = 10 * time.Second
	// leastInterval is the minimum time between two renewals by the timer.
	leastInterval = time.Second
	// keepInterval is how often the timer of a Source with Config.Keep compares the
	// credential's life with the clock. The timer does not advance while the machine is
	// suspended, and no read notices that in time.
	keepInterval = time.Minute
)

// Held is a credential. It is immutable.
type Held[T any] struct {
	Value T
	// Began is when the credential was requested or, if the issuer returned an
	// absolute end, when that end was compared with the clock.
	Began time.Time
	// Life is how long after Began the credential ends; zero means never.
	Life time.Duration
}

// Config configures a Source. Acquire, Tasks, Timeout and Closed are required.
type Config[T any] struct {
	// Acquire gets a credential: the successor of last, which is still valid, or a
	// first one if last is nil. Get returns its error, which should be a
	// *secret.Error: its reason distinguishes outages from refusals, and its
	// RetryAfter is honoured. A panic counts as an error.
	Acquire func(ctx context.Context, last *Held[T]) (*Held[T], error)
	// Timeout limits one call of Acquire.
	Timeout time.Duration
	// Tasks run the acquisitions. After they are stopped, Get returns Closed unless
	// the Source holds a valid credential.
	Tasks  *task.Group
	Closed error
	// Margin returns how long before its end a credential with that life is no longer
	// used; nil means zero. Ahead returns how long before its end its successor is
	// requested; nil means a third of its life.
	Margin, Ahead func(life time.Duration) time.Duration
	// Keep makes the Source renew the credential for as long as the Source is open,
	// because one that has ended cannot be acquired again. Without Keep, the Source
	// renews a credential only if it was used since it was acquired; an unused
	// credential ends at most one life after the one in which it was last used.
	Keep bool
	// Inputs, if not nil, returns a value that changes with the contents of the files
	// that Acquire reads, see Files. After a change, an earlier failure no longer
	// counts.
	Inputs func() uint64
	// Failed, if not nil, is called for each failure of Acquire, except after a stop.
	Failed func(error)
	// Now is the clock that measures lives; nil means time.Now.
	Now func() time.Time
}

// Source holds one credential. It is safe for concurrent use, and must be closed.
type Source[T any] struct {
	cfg Config[T]

	mu      sync.Mutex
	held    *Held[T] // the latest credential; nil after a store refused it
	used    bool     // since it was acquired
	ahead   time.Duration
	running *attempt[T]
	failed  *failure // of the latest attempt; nil if it succeeded
	timer   *time.Timer
	closed  bool

	refusals int       // number of refusals by stores in a row
	dropped  time.Time // when a credential was last dropped after such a refusal
}

// attempt is one run of Acquire. Its result may be read once done is closed.
type attempt[T any] struct {
	done   chan struct{}
	wanted bool // a caller needs its result, now or soon; guarded by Source.mu
	held   *Held[T]
	err    error
}

// New returns a Source, which does not acquire anything yet.
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

// Get returns a valid credential. If the Source holds one, Get does not wait;
// otherwise it waits for an acquisition, at most until ctx ends. The error is that of
// Acquire, from this or an earlier attempt, that of ctx, or Config.Closed.
func (s *Source[T]) Get(ctx context.Context) (*Held[T], error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	held, a, err := s.next()
	if a == nil {
		return held, err
	}
	select {
	case <-a.done: // prefer an available result over the end of ctx
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
			a.wanted = true // by a caller that will try again
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

// Begin starts to acquire a credential unless there is one, and does not wait for it.
// It is for a Source with Config.Keep.
func (s *Source[T]) Begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	if s.running == nil && !s.good(now) && !s.pausing(now) {
		s.start(false)
	}
}

// Touch marks the credential as in use. It is for callers that cache the result of
// Get.
func (s *Source[T]) Touch() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = true
}

// Refused records that a store refused a credential, and drops it. It reports whether
// Get may return another one: immediately after the first refusal, later only after
// pauses that grow as those after failed acquisitions. So a store that refuses every
// credential does not cause one acquisition per read.
func (s *Source[T]) Refused(held *Held[T]) bool {
	return s.refused(func(h *Held[T]) bool { return h == held })
}

// RefusedValue is like Refused, for the credential whose value satisfies is.
func (s *Source[T]) RefusedValue(is func(T) bool) bool {
	return s.refused(func(h *Held[T]) bool { return h != nil && is(h.Value) })
}

func (s *Source[T]) refused(is func(*Held[T]) bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == nil || !is(s.held) {
		return true // another caller has reported it
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

// Replaceable reports whether Refused would now drop the current credential.
func (s *Source[T]) Replaceable() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.replaceable(s.cfg.Now())
}

func (s *Source[T]) replaceable(now time.Time) bool {
	return s.dropped.IsZero() || elapsed.Between(s.dropped, now) >= refusalLimits.After(s.refusals)
}

// Forget drops the credential if its value satisfies is, so the next Get acquires
// another. It is for callers that know that another one is available.
func (s *Source[T]) Forget(is func(T) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held != nil && is(s.held.Value) {
		s.held = nil
		s.stopTimer()
	}
}

// Close stops the renewal by the timer. The current credential remains usable, and
// running acquisitions end with the Tasks.
func (s *Source[T]) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.stopTimer()
}
