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

// failure is a failed attempt, and for how long it is the answer to everybody.
type failure struct {
	err    error
	at     time.Time
	pause  time.Duration
	inputs uint64 // as they were
	// refused and inARow say what the next pause is.
	refused bool
	inARow  int
}

// tell returns the error with what is left of the pause.
func (f *failure) tell(now time.Time) error {
	var e *secret.Error
	if !errors.As(f.err, &e) || e.RetryAfter <= 0 {
		return f.err
	}
	c := *e
	c.RetryAfter = max(f.pause-elapsed.Between(f.at, now), time.Second)
	return &c
}

// newFailure makes the failure of an attempt, with a pause that grows from before's.
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

// good reports whether the credential at hand can be used. s.mu is held.
func (s *Source[T]) good(now time.Time) bool {
	h := s.held
	return h != nil && (h.Life == 0 || elapsed.Between(h.Began, now) < h.Life-s.cfg.Margin(h.Life))
}

// due reports whether it is time for the successor of the credential at hand. s.mu is
// held.
func (s *Source[T]) due(now time.Time) bool {
	h := s.held
	return h != nil && h.Life > 0 && elapsed.Between(h.Began, now) >= h.Life-s.ahead
}

// pausing reports whether the last failure still counts. s.mu is held.
func (s *Source[T]) pausing(now time.Time) bool {
	return s.failed != nil && elapsed.Between(s.failed.at, now) < s.failed.pause
}

// start begins an attempt; nil if the Tasks are stopped. With recheck it is one only if
// the inputs have changed since the last failure. None is running, and s.mu is held.
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

// run is an attempt, after the failure before if that is not nil.
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
	if recheck { // another credential than the one that failed
		before = nil
	}
	s.end(a, newFailure(a.err, s.cfg.Now(), inputs, before))
}

var errNothing = errors.New("credential: neither a credential nor an error")

// end is the end of an attempt, with its failure, if it is one.
func (s *Source[T]) end(a *attempt[T], failed *failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(a.done)
	s.running, s.failed = nil, failed
	now := s.cfg.Now()
	if failed != nil {
		if a.err == nil { // it was the earlier one
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
		// Up to a quarter later, so that what began together is not renewed together.
		s.ahead -= time.Duration(rand.Int64N(int64(s.ahead)/4 + 1)) //nolint:gosec // no secret
		s.wake(life - s.ahead - elapsed.Between(s.held.Began, now))
	}
}

// wake has the clock call tick after d. s.mu is held.
func (s *Source[T]) wake(d time.Duration) {
	d = max(d, leastInterval)
	switch {
	case s.closed:
	case s.timer == nil:
		s.timer = time.AfterFunc(d, s.tick)
	default:
		s.timer.Reset(d)
	}
}

// stopTimer ends the clock until the next wake. s.mu is held.
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
	case s.good(now) && !s.due(now): // it has been replaced meanwhile
		s.wake(s.held.Life - s.ahead - elapsed.Between(s.held.Began, now))
	default:
		s.start(false)
	}
}
