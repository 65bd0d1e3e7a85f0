package provider

import (
	"context"
	"errors"
	"log/slog"
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

// gate is the way to one store of one integration: who may read it when. Callers
// take turns, each with its own reads in the order they came, at most max reads run
// at a time, at the store's pace, and none while the store is dead. It is safe for
// concurrent use.
type gate struct {
	log   *slog.Logger
	count *counters
	// fetches are those that are anywhere in or before the gate, altogether and by
	// caller. Guarded by Set.mu.
	fetches  int
	byCaller map[string]int

	mu      sync.Mutex
	max     int
	running int
	queue   queue
	timer   *time.Timer // of the next dispatch; nil if none is needed
	pace    pace
	breaker *gobreaker.TwoStepCircuitBreaker[struct{}]
	opened  time.Time // when the breaker last opened
	// typical is the smoothed time that reads take.
	typical time.Duration
}

// admission is the end of waiting.
type admission struct {
	turn turn
	err  error
}

// turn is one read under way.
type turn struct {
	began time.Time
	lane  *lane       // that is charged for it
	done  func(error) // tells the breaker
}

func newGate(log *slog.Logger, count *counters, now time.Time) *gate {
	g := &gate{log: log, count: count, byCaller: make(map[string]int), queue: newQueue(now), pace: pace{began: now}}
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
// ctx leaves time. The account is charged. Its error is read's or a *secret.Error
// that says why there was no turn.
func (g *gate) do(ctx context.Context, account *Account, read func() error) error {
	for try := 1; ; try++ {
		t, err := g.wait(ctx, account, try > 1)
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

// wait returns when it is the account's turn. A read that comes again goes before
// the caller's others.
func (g *gate) wait(ctx context.Context, account *Account, again bool) (turn, error) {
	w := &waiter{admitted: make(chan admission, 1)}
	w.deadline, _ = ctx.Deadline()
	if err := account.enter(g, w, again, ctx.Err()); err != nil {
		return turn{}, err
	}
	select {
	case a := <-w.admitted:
		return a.turn, a.err
	case <-ctx.Done():
		return turn{}, g.abandon(ctx, w)
	}
}

// enter puts a waiter into the queues of its callers, unless it need not wait.
func (g *gate) enter(w *waiter, callers []string, again bool, cut error) *secret.Error {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	for _, caller := range callers {
		g.queue.add(w, caller, again, now)
	}
	before := g.before(w, now)
	err := g.refuse(w, before, now)
	if err == nil && cut != nil {
		err = g.outOfTime(before, now, cut)
	}
	if err != nil {
		w.refused = true
		g.queue.remove(w)
		return err
	}
	g.dispatch()
	w.waited = true
	return nil
}

// join adds a caller to a waiter's. It reports whether what comes of the waiting
// is the caller's concern too.
func (g *gate) join(w *waiter, caller string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(w.lanes) > 0 {
		g.queue.add(w, caller, false, time.Now())
	}
	return !w.refused
}

// abandon takes a waiter away whose context has ended.
func (g *gate) abandon(ctx context.Context, w *waiter) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(w.lanes) > 0 {
		now := time.Now()
		err := g.outOfTime(g.before(w, now), now, ctx.Err())
		w.refused = true
		g.queue.remove(w)
		g.dispatch() // or stop the timer
		return err
	}
	a := <-w.admitted // at the same moment
	if a.err != nil {
		return a.err
	}
	a.turn.done(errNoVerdict)
	g.over(a.turn, time.Now())
	g.dispatch()
	return g.outOfTime(g.queue.waiting, time.Now(), ctx.Err())
}

// over gives a turn's place back. g.mu is held.
func (g *gate) over(t turn, now time.Time) {
	g.running--
	g.queue.ended(t.lane, t.began, now)
}

// cost is what a read is expected to use of a caller's share, in seconds. g.mu is held.
func (g *gate) cost() float64 { return max(g.typical.Seconds(), leastUse) }

// before is how many others will have their turns before w. g.mu is held.
func (g *gate) before(w *waiter, now time.Time) int { return g.queue.before(w, now, g.cost()) }

// dispatch lets in those whose turn it is, and sees to it that it is called again
// when it is the next one's. g.mu is held.
func (g *gate) dispatch() {
	now := time.Now()
	pause := time.Duration(0)
	for g.queue.waiting > 0 && g.running < g.max {
		if pause = g.pace.wait(now); pause > 0 {
			break
		}
		w, l := g.queue.next(now, g.cost())
		a := g.admit(w, now)
		if a.err == nil {
			g.queue.begun(l, now)
			a.turn.lane = l
		}
		w.refused = a.err != nil
		w.admitted <- a
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
		return admission{err: g.outOfTime(0, now, nil)}
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
	g.over(t, now)
	took := now.Sub(t.began)
	g.typical += (took - g.typical) / 8
	switch reason := reasonOf(err); {
	case reason == secret.ReasonStoreThrottled:
		g.count.throttled.Add(1)
		g.pace.throttled(now, t.began, secret.AsError(err).RetryAfter)
		t.done(nil) // alive
		g.review(now)
	case reason == secret.ReasonInternal, errors.Is(err, errNoVerdict), ctx.Err() != nil && (errors.Is(ctx.Err(), context.Canceled) || took < patience):
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

// review sends away those in the queue whose turn will not come in time. g.mu is
// held.
func (g *gate) review(now time.Time) {
	kept := 0
	g.queue.filter(now, g.cost(), func(w *waiter) bool {
		err := g.refuse(w, kept, now)
		if err != nil {
			w.refused = true
			w.admitted <- admission{err: err}
			return false
		}
		kept++
		return true
	})
}

// displace makes room for a read of another caller: the last one that waits for
// this caller alone is refused. It reports whether there was one.
func (g *gate) displace(caller string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	w := g.queue.last(caller)
	if w == nil {
		return false
	}
	w.refused = true
	g.queue.remove(w)
	w.admitted <- admission{err: g.crowded()}
	return true
}

// refuse returns why a read with that many others before it need not wait, or
// nil. g.mu is held.
func (g *gate) refuse(w *waiter, before int, now time.Time) *secret.Error {
	if g.breaker.State() == gobreaker.StateOpen {
		return g.dead(now)
	}
	if pause := g.pace.pausedUntil.Sub(now); pause > maxPause {
		return g.late(before, now) // whoever asks
	}
	if wait := g.turnIn(before, now); wait > 0 && !w.deadline.IsZero() && now.Add(wait+g.typical).After(w.deadline) {
		return g.outOfTime(before, now, nil)
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
