package provider

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	// tripAfter is the number of consecutive reads without a response that open the
	// circuit breaker.
	tripAfter = 5
	// openFor is how long the breaker stays open before one read probes the store.
	openFor = 3 * time.Second
	// patience is the minimum duration of a read for its deadline to count as a failure of
	// the store: a caller with a short deadline proves nothing.
	patience = 3 * time.Second
	// maxPause is the longest pause requested by a store that reads wait for. Callers of
	// longer pauses get an error at once.
	maxPause = 3 * time.Second
	// maxTries is the maximum number of attempts of a read that the store throttles.
	// Usually the deadline comes first.
	maxTries = 10
	// maxRetryAfter is the longest RetryAfter in an error.
	maxRetryAfter = time.Minute
	// reservedShare is the part of the concurrent reads, one in so many, that is reserved
	// for callers that have none running. Else one caller whose reads hang delays all
	// others until those reads time out.
	reservedShare = 9
)

// limiter decides when a read of one store of one integration starts. Callers take
// turns, and each caller's reads start in the order in which they arrived. At most max
// reads run concurrently, some of them only for callers that have no other, at the rate that the rate controller allows, and none while
// the circuit breaker is open. It is safe for concurrent use.
type limiter struct {
	log   *slog.Logger
	count *counters
	// fetches counts the Fetches that wait or run, in total and by caller. Guarded by
	// Set.mu.
	fetches  int
	byCaller map[string]int

	mu      sync.Mutex
	max     int
	running int
	queue   queue
	timer   *time.Timer // fires at the next dispatch; nil if none is needed
	rate    rateController
	breaker *gobreaker.TwoStepCircuitBreaker[struct{}]
	opened  time.Time // when the breaker last opened
	health  health
	// typical is the smoothed duration of reads.
	typical time.Duration
}

// admission is the result of waiting: a turn or an error.
type admission struct {
	turn turn
	err  error
}

// turn is one running read.
type turn struct {
	began time.Time
	lane  *lane       // the lane that is charged for it
	done  func(error) // reports the result to the breaker
}

func newLimiter(log *slog.Logger, count *counters, now time.Time) *limiter {
	lim := &limiter{log: log, count: count, byCaller: make(map[string]int), queue: newQueue(now), rate: rateController{began: now}}
	lim.breaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Timeout:       openFor,
		ReadyToTrip:   func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= tripAfter },
		IsExcluded:    func(err error) bool { return errors.Is(err, errInconclusive) },
		OnStateChange: lim.changed,
	})
	return lim
}

// errInconclusive is the result, for the breaker, of a read that says nothing about the
// store.
var errInconclusive = errors.New("provider: the read says nothing about the store")

// configure applies the limits of the integration's current revision.
func (lim *limiter) configure(reads integration.Reads, maxReads int) {
	lim.mu.Lock()
	defer lim.mu.Unlock()
	lim.max = maxReads
	if reads.MaxConcurrent > 0 {
		lim.max = reads.MaxConcurrent
	}
	lim.rate.limit = float64(reads.PerSecond)
}

// do calls read when its turn comes, and again while the store throttles it and ctx leaves
// time. The callers are charged for it. The error is read's, or a *secret.Error if no turn
// came.
func (lim *limiter) do(ctx context.Context, callers *Callers, read func() error) error {
	for try := 1; ; try++ {
		t, err := lim.wait(ctx, callers, try > 1)
		if err != nil {
			return err
		}
		err = lim.run(ctx, t, read)
		if try == maxTries || reasonOf(err) != secret.ReasonStoreThrottled {
			return err
		}
	}
}

// run runs read in its turn, and ends the turn even if read panics.
func (lim *limiter) run(ctx context.Context, t turn, read func() error) (err error) {
	err = errInconclusive // the result if read panics
	defer func() { lim.end(ctx, t, err) }()
	return read()
}

// wait waits for the callers' turn. A read that is repeated goes before the caller's other
// reads.
func (lim *limiter) wait(ctx context.Context, callers *Callers, again bool) (turn, error) {
	w := &waiter{admitted: make(chan admission, 1)}
	w.deadline, _ = ctx.Deadline()
	if err := callers.enter(lim, w, again, ctx.Err()); err != nil {
		return turn{}, err
	}
	select {
	case a := <-w.admitted:
		return a.turn, a.err
	case <-ctx.Done():
		return turn{}, lim.abandon(ctx, w)
	}
}

// enter puts a waiter into the queues of its callers, or refuses it at once.
func (lim *limiter) enter(w *waiter, callers []string, again bool, cut error) *secret.Error {
	lim.mu.Lock()
	defer lim.mu.Unlock()
	now := time.Now()
	for _, caller := range callers {
		lim.queue.add(w, caller, again, now)
	}
	before := lim.before(w, now)
	err := lim.refuse(w, before, now)
	if err == nil && cut != nil {
		err = lim.outOfTime(before, now, cut)
	}
	if err != nil {
		w.refused = true
		lim.queue.remove(w)
		return err
	}
	lim.dispatch()
	w.waited = true
	return nil
}

// join adds a caller to a waiter. It reports whether the result of the waiting applies to
// that caller.
func (lim *limiter) join(w *waiter, caller string) bool {
	lim.mu.Lock()
	defer lim.mu.Unlock()
	if len(w.lanes) > 0 {
		lim.queue.add(w, caller, false, time.Now())
	}
	return !w.refused
}

// abandon removes a waiter whose context has ended.
func (lim *limiter) abandon(ctx context.Context, w *waiter) error {
	lim.mu.Lock()
	defer lim.mu.Unlock()
	if len(w.lanes) > 0 {
		now := time.Now()
		err := lim.outOfTime(lim.before(w, now), now, ctx.Err())
		w.refused = true
		lim.queue.remove(w)
		lim.dispatch() // updates the timer
		return err
	}
	a := <-w.admitted // it was admitted at the same moment
	if a.err != nil {
		return a.err
	}
	a.turn.done(errInconclusive)
	lim.over(a.turn, time.Now())
	lim.dispatch()
	return lim.outOfTime(lim.queue.waiting, time.Now(), ctx.Err())
}

// over frees the place of a turn. lim.mu is held.
func (lim *limiter) over(t turn, now time.Time) {
	lim.running--
	lim.queue.ended(t.lane, t.began, now)
}

// cost is the expected use of a caller's share by one read, in seconds. lim.mu is held.
func (lim *limiter) cost() float64 { return max(lim.typical.Seconds(), leastUse) }

// before is the number of reads that will have their turns before w. lim.mu is held.
func (lim *limiter) before(w *waiter, now time.Time) int { return lim.queue.before(w, now, lim.cost()) }

// limit is the number of running reads below which another one may start. It is lower for
// callers that already have a read running.
func (lim *limiter) limit(newcomer bool) int {
	if newcomer {
		return lim.max
	}
	return lim.max - lim.max/reservedShare
}

// dispatch admits the reads whose turn has come, and sets the timer for the next one.
// lim.mu is held.
func (lim *limiter) dispatch() {
	now := time.Now()
	pause := time.Duration(0)
	for lim.running < lim.max {
		l := lim.queue.next(now, lim.cost(), lim.running >= lim.limit(false))
		if l == nil {
			break
		}
		if pause = lim.rate.wait(now); pause > 0 {
			break
		}
		w := lim.queue.take(l, now, lim.cost())
		a := lim.admit(w, now)
		if a.err == nil {
			lim.queue.begun(l, now)
			a.turn.lane = l
		}
		w.refused = a.err != nil
		w.admitted <- a
	}
	switch {
	case pause > 0 && lim.timer == nil:
		lim.timer = time.AfterFunc(pause, func() {
			lim.mu.Lock()
			defer lim.mu.Unlock()
			lim.dispatch()
		})
	case pause > 0:
		lim.timer.Reset(pause)
	case lim.timer != nil:
		lim.timer.Stop()
	}
}

// admit begins the turn of a waiter, unless it cannot finish in time. lim.mu is held.
func (lim *limiter) admit(w *waiter, now time.Time) admission {
	// A read that cannot finish in time would only occupy the place of one that can.
	if w.waited && !w.deadline.IsZero() && now.Add(lim.typical).After(w.deadline) {
		return admission{err: lim.outOfTime(0, now, nil)}
	}
	done, err := lim.breaker.Allow()
	if err != nil {
		return admission{err: lim.dead(now)}
	}
	lim.running++
	lim.health.began(lim.running, now)
	lim.rate.begin(now)
	return admission{turn: turn{began: now, done: done}}
}

// end ends a turn and evaluates its result.
func (lim *limiter) end(ctx context.Context, t turn, err error) {
	lim.mu.Lock()
	defer lim.mu.Unlock()
	now := time.Now()
	lim.over(t, now)
	took := now.Sub(t.began)
	lim.typical += (took - lim.typical) / 8
	switch reason := reasonOf(err); {
	case reason == secret.ReasonStoreThrottled:
		lim.count.throttled.Add(1)
		lim.rate.throttled(now, t.began, secret.AsError(err).RetryAfter)
		lim.health.responded(took, now)
		t.done(nil)
		lim.review(now)
	case reason == secret.ReasonInternal, errors.Is(err, errInconclusive), ctx.Err() != nil && (errors.Is(ctx.Err(), context.Canceled) || took < patience):
		t.done(errInconclusive)
	case reason == secret.ReasonStoreUnavailable && !errors.Is(err, storeerror.ErrAnswered):
		lim.health.silence(now)
		t.done(err)
		if lim.breaker.State() == gobreaker.StateOpen {
			lim.review(now)
		}
	default:
		lim.health.responded(took, now)
		lim.rate.good(now)
		t.done(nil)
	}
	lim.dispatch()
}

// review refuses the waiters whose turn will not come in time. lim.mu is held.
func (lim *limiter) review(now time.Time) {
	kept := 0
	lim.queue.filter(now, lim.cost(), func(w *waiter) bool {
		err := lim.refuse(w, kept, now)
		if err != nil {
			w.refused = true
			w.admitted <- admission{err: err}
			return false
		}
		kept++
		return true
	})
}

// displace makes room for a read of another caller: it refuses the last waiter that
// belongs only to this caller. It reports whether there was one.
func (lim *limiter) displace(caller string) bool {
	lim.mu.Lock()
	defer lim.mu.Unlock()
	w := lim.queue.last(caller)
	if w == nil {
		return false
	}
	w.refused = true
	lim.queue.remove(w)
	w.admitted <- admission{err: lim.crowded()}
	return true
}

// refuse returns why a read with the given number of reads before it cannot have a turn in
// time, or nil. lim.mu is held.
func (lim *limiter) refuse(w *waiter, before int, now time.Time) *secret.Error {
	if lim.breaker.State() == gobreaker.StateOpen {
		return lim.dead(now)
	}
	if pause := lim.rate.pausedUntil.Sub(now); pause > maxPause {
		return lim.late(before, now) // applies to all callers
	}
	if wait := lim.turnIn(before, w.newcomer(), now); wait > 0 && !w.deadline.IsZero() && now.Add(wait+lim.typical).After(w.deadline) {
		return lim.outOfTime(before, now, nil)
	}
	return nil
}

// turnIn estimates the time until the turn of a read with the given number of reads before
// it. newcomer is whether its caller has no read running. lim.mu is held.
func (lim *limiter) turnIn(before int, newcomer bool, now time.Time) time.Duration {
	wait := lim.rate.turnIn(before, now)
	if most := lim.limit(newcomer); lim.running >= most {
		rounds := time.Duration(before/most + 1)
		wait = max(wait, rounds*lim.typical)
	}
	return wait
}

// changed logs and counts a state change of the breaker. The breaker calls it from end,
// admit and refuse, so lim.mu is held.
func (lim *limiter) changed(_ string, from, to gobreaker.State) {
	switch {
	case to == gobreaker.StateOpen:
		lim.opened = time.Now()
		if from == gobreaker.StateClosed {
			lim.count.opened.Add(1)
			lim.log.Warn("the circuit breaker opened: the store does not respond, and is only probed until it does")
		}
	case to == gobreaker.StateClosed:
		lim.log.Info("the circuit breaker closed: the store responds again")
	}
}

// idle reports whether the limiter can be dropped without losing state. The caller makes
// sure that no Fetch is running.
func (lim *limiter) idle(now time.Time) bool {
	lim.mu.Lock()
	defer lim.mu.Unlock()
	return !lim.rate.slowed(now) && lim.breaker.State() == gobreaker.StateClosed && lim.breaker.Counts().ConsecutiveFailures == 0
}

// reasonOf returns err's reason, or "" if err is nil.
func reasonOf(err error) secret.Reason {
	if err == nil {
		return ""
	}
	return secret.AsError(err).Reason
}
