package credential

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/secretbroker/secretbroker/internal/backoff"
	"github.com/secretbroker/secretbroker/internal/elapsed"
	"github.com/secretbroker/secretbroker/internal/provider/task"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// failure is a failed attempt, and for how long every Get returns its error.
type failure struct {
	err    error
	at     time.Time
	pause  time.Duration
	inputs uint64 // at the time of the attempt
	// refused and inARow determine the next pause.
	refused bool
	inARow  int
}

// tell returns the error with the rest of the pause as its RetryAfter.
func (f *failure) tell(now time.Time) error {
	var e *secret.Error
	if !errors.As(f.err, &e) || e.RetryAfter <= 0 {
		return f.err
	}
	c := *e
	c.RetryAfter = max(f.pause-elapsed.Between(f.at, now), time.Second)
	return &c
}

// newFailure returns the failure of an attempt. Its pause grows from that of before.
func newFailure(err error, now time.Time, inputs uint64, before *failure) *failure {
	f := &failure{err: err, at: now, inputs: inputs, inARow: 1}
	var asked time.Duration
	var e *secret.Error
	if errors.As(err, &e) {
		switch e.Reason {
		case secret.ReasonStoreUnavailable, secret.ReasonStoreThrottled, secret.ReasonOverloaded, secret.ReasonInternal:
		default:
			f.refused = true
		}
		asked = min(e.RetryAfter, MaxRefusalPause)
	}
	if before != nil && before.refused == f.refused {
		f.inARow += before.inARow
	}
	limits := backoff.Limits{First: OutagePause, Longest: MaxOutagePause}
	if f.refused {
		limits = refusalLimits
	}
	f.pause = max(backoff.Jitter(limits.After(f.inARow)), asked)
	return f
}

var refusalLimits = backoff.Limits{First: RefusalPause, Longest: MaxRefusalPause}

// good reports whether the current credential can be used. The caller holds s.mu.
func (s *Source[T]) good(now time.Time) bool {
	h := s.held
	return h != nil && (h.Life == 0 || elapsed.Between(h.Began, now) < h.Life-s.cfg.Margin(h.Life))
}

// due reports whether it is time to renew the current credential. The caller holds
// s.mu.
func (s *Source[T]) due(now time.Time) bool {
	h := s.held
	return h != nil && h.Life > 0 && elapsed.Between(h.Began, now) >= h.Life-s.ahead
}

// pausing reports whether the pause after the last failure is still running. The
// caller holds s.mu.
func (s *Source[T]) pausing(now time.Time) bool {
	return s.failed != nil && elapsed.Between(s.failed.at, now) < s.failed.pause
}

// start starts an attempt and returns it; nil if the Tasks are stopped. With recheck,
// the attempt acquires only if the inputs have changed since the last failure. The
// caller holds s.mu and has checked that no attempt is running.
func (s *Source[T]) start(recheck bool) *attempt[T] {
	a := &attempt[T]{done: make(chan struct{})}
	var last *Held[T]
	if s.good(s.cfg.Now()) {
		last = s.held
	}
	before := s.failed
	if !s.cfg.Tasks.Start(func(closing context.Context) { s.run(closing, a, last, before, recheck) }) {
		return nil
	}
	s.running = a
	return a
}

// run executes an attempt. before is the previous failure, or nil.
func (s *Source[T]) run(closing context.Context, a *attempt[T], last *Held[T], before *failure, recheck bool) {
	var inputs uint64
	if s.cfg.Inputs != nil {
		inputs = s.cfg.Inputs()
	}
	if recheck && inputs == before.inputs {
		s.end(a, before)
		return
	}
	ctx, cancel := context.WithTimeout(closing, s.cfg.Timeout)
	defer cancel()
	a.err = task.Contain(func() (err error) {
		a.held, err = s.cfg.Acquire(ctx, last)
		return err
	})
	if a.err == nil && a.held == nil {
		a.err = errNothing
	}
	if a.err == nil {
		s.end(a, nil)
		return
	}
	if closing.Err() == nil {
		s.cfg.Failed(a.err)
	}
	a.held = nil
	if recheck { // the input is another credential than the one that failed
		before = nil
	}
	s.end(a, newFailure(a.err, s.cfg.Now(), inputs, before))
}

var errNothing = errors.New("credential: neither a credential nor an error")

// end completes an attempt. failed is its failure, or nil.
func (s *Source[T]) end(a *attempt[T], failed *failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(a.done)
	s.running, s.failed = nil, failed
	now := s.cfg.Now()
	if failed != nil {
		if a.err == nil { // recheck found no change: the earlier failure remains
			a.err = failed.tell(now)
		}
		if s.cfg.Keep || s.used && s.good(now) {
			s.wake(failed.pause - elapsed.Between(failed.at, now))
		}
		return
	}
	s.held, s.used = a.held, a.wanted
	if life := s.held.Life; life > 0 {
		s.ahead = min(s.cfg.Ahead(life), life)
		// Up to a quarter later, so that credentials acquired together are not
		// renewed together.
		s.ahead -= time.Duration(rand.Int64N(int64(s.ahead)/4 + 1)) //nolint:gosec // no secret
		s.wake(life - s.ahead - elapsed.Between(s.held.Began, now))
	}
}

// wake makes the timer call tick after d. The caller holds s.mu.
func (s *Source[T]) wake(d time.Duration) {
	d = max(d, leastInterval)
	if s.cfg.Keep {
		d = min(d, keepInterval)
	}
	switch {
	case s.closed:
	case s.timer == nil:
		s.timer = time.AfterFunc(d, s.tick)
	default:
		s.timer.Reset(d)
	}
}

// stopTimer stops the timer until the next wake. The caller holds s.mu.
func (s *Source[T]) stopTimer() {
	if s.timer != nil {
		s.timer.Stop()
	}
}

// tick renews the credential if it is in use.
func (s *Source[T]) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.running != nil || !s.cfg.Keep && (!s.used || s.held == nil) {
		return
	}
	now := s.cfg.Now()
	switch {
	case s.pausing(now):
		s.wake(s.failed.pause - elapsed.Between(s.failed.at, now))
	case s.good(now) && !s.due(now): // replaced in the meantime
		s.wake(s.held.Life - s.ahead - elapsed.Between(s.held.Began, now))
	default:
		s.start(false)
	}
}
