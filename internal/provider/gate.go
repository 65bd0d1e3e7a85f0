package provider

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	// tripAfter is how many reads in a row a store has to leave without an answer
	// to be taken for dead.
	tripAfter = 5
	// openFor is how long a dead store is left alone before one read tries it.
	openFor = 3 * time.Second
	// patience is how long a read must have run for its end by its own deadline to
	// say something about the store.
	patience = 3 * time.Second
	// maxPause is the longest pause asked for by a store that reads wait out;
	// their callers are told of longer ones at once.
	maxPause = 3 * time.Second
	// maxTries is how often a read that the store throttles is begun at most. Time
	// ends sooner, mostly.
	maxTries = 10
	// maxRetryAfter is the most that callers are told to wait.
	maxRetryAfter = time.Minute
)

// gate is the way to one store of one integration: who may read it when. Reads
// pass in the order they came, at most max at a time, at the store's pace, and
// not at all while the store is dead. It is safe for concurrent use.
type gate struct {
	log   *slog.Logger
	count *counters
	// fetches are those that are anywhere in or before the gate. Guarded by Set.mu.
	fetches int

	mu      sync.Mutex
	max     int
	running int
	queue   []*waiter
	timer   *time.Timer // of the next dispatch; nil if none is needed
	pace    pace
	breaker *gobreaker.TwoStepCircuitBreaker[struct{}]
	opened  time.Time // when the breaker last opened
	// typical is the smoothed time that reads take.
	typical time.Duration
}

// waiter is a read that waits for its turn.
type waiter struct {
	deadline time.Time // zero for none
	waited   bool      // its turn was not at once
	// admitted gets a turn or an error, once.
	admitted chan admission
}

// admission is the end of waiting.
type admission struct {
	turn turn
	err  error
}

// turn is one read under way.
type turn struct {
	began time.Time
	done  func(error) // tells the breaker
}

func newGate(log *slog.Logger, count *counters, now time.Time) *gate {
	g := &gate{log: log, count: count, pace: pace{began: now}}
	g.breaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Timeout:       openFor,
		ReadyToTrip:   func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= tripAfter },
		IsExcluded:    func(err error) bool { return errors.Is(err, errNoVerdict) },
		OnStateChange: g.changed,
	})
	return g
}

// errNoVerdict ends a turn that says nothing about the store.
var errNoVerdict = errors.New("provider: the read says nothing about the store")

// configure sets what the integration's current revision allows.
func (g *gate) configure(limits registry.Limits, maxReads int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.max = maxReads
	if limits.MaxConcurrentReads > 0 {
		g.max = limits.MaxConcurrentReads
	}
	g.pace.limit = float64(limits.ReadsPerSecond)
}

// do calls read when it is its turn, and again while the store throttles it and
// ctx leaves time. Its error is read's or a *secret.Error that says why there
// was no turn.
func (g *gate) do(ctx context.Context, read func() error) error {
	for try := 1; ; try++ {
		t, err := g.wait(ctx, try > 1)
		if err != nil {
			return err
		}
		err = g.run(ctx, t, read)
		if try == maxTries || reasonOf(err) != secret.ReasonStoreThrottled {
			return err
		}
	}
}

// run is one turn. It ends whatever read does.
func (g *gate) run(ctx context.Context, t turn, read func() error) (err error) {
	err = errNoVerdict // of a panic
	defer func() { g.end(ctx, t, err) }()
	return read()
}

// wait returns when it is the caller's turn. Whoever comes again goes first.
func (g *gate) wait(ctx context.Context, again bool) (turn, error) {
	w := &waiter{admitted: make(chan admission, 1)}
	w.deadline, _ = ctx.Deadline()
	g.mu.Lock()
	at := len(g.queue)
	if again {
		at = 0
	}
	err := g.refuse(w, at, time.Now())
	if cause := ctx.Err(); err == nil && cause != nil {
		err = g.late(at, time.Now()).WithCause(cause)
	}
	if err != nil {
		g.mu.Unlock()
		return turn{}, err
	}
	g.queue = slices.Insert(g.queue, at, w)
	g.dispatch()
	w.waited = true
	g.mu.Unlock()
	select {
	case a := <-w.admitted:
		return a.turn, a.err
	case <-ctx.Done():
		return turn{}, g.abandon(ctx, w)
	}
}

// abandon takes a waiter away whose context has ended.
func (g *gate) abandon(ctx context.Context, w *waiter) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.queue, w); i >= 0 {
		g.queue = slices.Delete(g.queue, i, i+1)
		g.dispatch() // or stop the timer
		return g.late(len(g.queue), time.Now()).WithCause(ctx.Err())
	}
	a := <-w.admitted // at the same moment
	if a.err != nil {
		return a.err
	}
	a.turn.done(errNoVerdict)
	g.running--
	g.dispatch()
	return g.late(len(g.queue), time.Now()).WithCause(ctx.Err())
}

// dispatch lets in whose turn it is, and sees to it that it is called again when
// it is the next one's. g.mu is held.
func (g *gate) dispatch() {
	now := time.Now()
	pause := time.Duration(0)
	for len(g.queue) > 0 && g.running < g.max {
		if pause = g.pace.wait(now); pause > 0 {
			break
		}
		w := g.queue[0]
		g.queue = slices.Delete(g.queue, 0, 1)
		w.admitted <- g.admit(w, now)
	}
	switch {
	case pause > 0 && g.timer == nil:
		g.timer = time.AfterFunc(pause, func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.dispatch()
		})
	case pause > 0:
		g.timer.Reset(pause)
	case g.timer != nil:
		g.timer.Stop()
	}
}

// admit begins the turn of a waiter, if that still makes sense. g.mu is held.
func (g *gate) admit(w *waiter, now time.Time) admission {
	// A read that cannot end in time would only take the place of one that can.
	if w.waited && !w.deadline.IsZero() && now.Add(g.typical).After(w.deadline) {
		return admission{err: g.late(0, now)}
	}
	done, err := g.breaker.Allow()
	if err != nil {
		return admission{err: g.dead(now)}
	}
	g.running++
	g.pace.begin(now)
	return admission{turn: turn{began: now, done: done}}
}

// end is the end of a turn: it draws the conclusions from what came of it.
func (g *gate) end(ctx context.Context, t turn, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.running--
	took := now.Sub(t.began)
	g.typical += (took - g.typical) / 8
	switch reason := reasonOf(err); {
	case reason == secret.ReasonStoreThrottled:
		g.count.throttled.Add(1)
		g.pace.throttled(now, t.began, secret.AsError(err).RetryAfter)
		t.done(nil) // alive
		g.review(now)
	case reason == secret.ReasonInternal, ctx.Err() != nil && (errors.Is(ctx.Err(), context.Canceled) || took < patience):
		t.done(errNoVerdict)
	case reason == secret.ReasonStoreUnavailable && !errors.Is(err, ErrAnswered):
		t.done(err)
		if g.breaker.State() == gobreaker.StateOpen {
			g.review(now)
		}
	default:
		g.pace.good(now)
		t.done(nil)
	}
	g.dispatch()
}

// review sends away those in the queue who will not get their turn in time.
// g.mu is held.
func (g *gate) review(now time.Time) {
	waiting := g.queue
	g.queue = nil
	for _, w := range waiting {
		if err := g.refuse(w, len(g.queue), now); err != nil {
			w.admitted <- admission{err: err}
			continue
		}
		g.queue = append(g.queue, w)
	}
}

// refuse returns why a read with that many others before it need not wait, or
// nil. g.mu is held.
func (g *gate) refuse(w *waiter, before int, now time.Time) *secret.Error {
	if g.breaker.State() == gobreaker.StateOpen {
		return g.dead(now)
	}
	if pause := g.pace.pausedUntil.Sub(now); pause > maxPause {
		return g.late(before, now)
	}
	if wait := g.turnIn(before, now); wait > 0 && !w.deadline.IsZero() && now.Add(wait+g.typical).After(w.deadline) {
		return g.late(before, now)
	}
	return nil
}

// turnIn estimates when it is the turn of a read with that many others before
// it. g.mu is held.
func (g *gate) turnIn(before int, now time.Time) time.Duration {
	wait := g.pace.turnIn(before, now)
	if g.running >= g.max {
		rounds := time.Duration(before/g.max + 1)
		wait = max(wait, rounds*g.typical)
	}
	return wait
}

// late is the error of a read that would get no turn in time: the store's fault
// if it throttles, ours if not. g.mu is held.
func (g *gate) late(before int, now time.Time) *secret.Error {
	e := secret.Errorf(secret.ReasonOverloaded,
		"more secrets of this store are asked for than may be read at a time, and the call's turn would not come in time; try again later")
	if g.pace.slowed(now) {
		e = secret.Errorf(secret.ReasonStoreThrottled, "the store limits how often it is read, and the call's turn would not come in time; wait")
	}
	e.RetryAfter = min(g.turnIn(before, now), maxRetryAfter)
	return e
}

// dead is the error of a read of a store that does not answer. g.mu is held.
func (g *gate) dead(now time.Time) *secret.Error {
	e := secret.Errorf(secret.ReasonStoreUnavailable,
		"the store has not answered the last reads and is left alone for a moment; look at the store and the way to it")
	e.RetryAfter = max(g.opened.Add(openFor).Sub(now), time.Second)
	return e
}

// changed notes that the breaker has gone to another state. Only end calls what
// calls it, and admit and refuse, so that g.mu is held.
func (g *gate) changed(_ string, from, to gobreaker.State) {
	switch {
	case to == gobreaker.StateOpen:
		g.opened = time.Now()
		if from == gobreaker.StateClosed {
			g.count.opened.Add(1)
			g.log.Warn("a store does not answer: it is read no more than now and then until it does")
		}
	case to == gobreaker.StateClosed:
		g.log.Info("the store answers again")
	}
}

// idle reports whether nothing is lost if the gate is forgotten. The caller has
// seen to it that no Fetch is under way.
func (g *gate) idle(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.pace.slowed(now) && g.breaker.State() == gobreaker.StateClosed && g.breaker.Counts().ConsecutiveFailures == 0
}

// reasonOf returns err's reason, "" if there is no error.
func reasonOf(err error) secret.Reason {
	if err == nil {
		return ""
	}
	return secret.AsError(err).Reason
}
