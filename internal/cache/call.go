package cache

import (
	"context"
	"errors"
	"time"

	"github.com/secretbroker/secretbroker/internal/elapsed"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// leastPatience is how long a call waits at least for a load before it counts as an outage
// that the load has not ended. The haste of a caller with a shorter deadline says nothing
// about the store.
const leastPatience = 100 * time.Millisecond

// call is a Get that needs a load.
type call struct {
	*Cache
	ctx     context.Context
	req     *Request
	load    Loader
	hash    uint64 // of the Key
	arrival time.Time
	// impatient fires when a stale value is to be the answer; nil if there is none.
	impatient <-chan time.Time
	again     int // how often a superseded load was the outcome
}

// step is the next step of a waiting call: it returns an entry, whose secret was retained
// for it, or an error, or the outcome of a flight, which it holds. Otherwise it waits for a
// flight or a pause and asks next again.
type step struct {
	entry   *entry
	err     *secret.Error
	flight  *flight
	outcome bool   // the outcome of flight answers this call
	source  Source // of the outcome
	pause   time.Duration
}

// wait answers a request that needs a load.
//
// If a stale value may be the answer, the call waits until the load has taken half of the
// time that the call has. If the store is known not to respond, it does not wait at all. The
// load continues in the background.
func (c *Cache) wait(ctx context.Context, req Request, load Loader, h uint64, arrival time.Time) (Result, error) {
	w := call{Cache: c, ctx: ctx, req: &req, load: load, hash: h, arrival: arrival}
	if req.MaxStale <= 0 || !w.mayBeStale() {
		return w.wait()
	}
	if req.unresponsive() {
		if got, ok := w.stale(); ok {
			c.count.negative.Add(1)
			c.probe(&req, load, h)
			return got, nil
		}
	}
	timer := time.NewTimer(w.patience())
	defer timer.Stop()
	w.impatient = timer.C
	return w.wait()
}

// patience returns how long the call waits for a load before it takes a stale value. The
// time for which the load is already running counts.
func (w *call) patience() time.Duration {
	left := w.cfg.LoadTimeout
	if end, ok := w.ctx.Deadline(); ok {
		left = end.Sub(w.arrival)
	}
	d := max(left/2, leastPatience)
	w.mu.Lock()
	defer w.mu.Unlock()
	if f := w.flights[w.req.loadKey()]; f != nil {
		d -= elapsed.Between(f.started, w.arrival)
	}
	return d
}

// wait answers the call from a load, or earlier with a stale value.
func (w *call) wait() (Result, error) {
	for {
		// Only a cancelled call ends before it has begun: its caller has gone. A
		// deadline counts only after the load has started. Otherwise callers with short
		// deadlines would never get a value, however often they tried.
		if err := w.ctx.Err(); errors.Is(err, context.Canceled) {
			return Result{}, gaveUp(err)
		}
		s := w.next(w.req, w.load, w.hash, w.arrival)
		switch {
		case s.entry != nil:
			w.count.hits.Add(1)
			return s.entry.result(w.req, Hit), nil
		case s.err != nil:
			return w.fail(s.err)
		case s.flight == nil:
			if got, err := w.pause(s.pause); err != nil || got.Secret != nil {
				return got, err
			}
			continue
		}
		concerned := s.source == Miss && s.outcome || s.flight.join(w.req.Account)
		if s.outcome {
			got, err := w.share(s.flight, s.source)
			if !concerned && errors.Is(err, ErrOwn) || errors.Is(err, errSuperseded) {
				continue
			}
			return got, err
		}
		if got, over, err := w.await(s.flight.done); over {
			return got, err
		}
	}
}

// await waits for done. If the call is answered before that, over is true.
func (w *call) await(done <-chan struct{}) (got Result, over bool, err error) {
	for {
		select {
		case <-done:
			return Result{}, false, nil
		case <-w.ctx.Done():
			got, err = w.leave()
			return got, true, err
		case <-w.impatient:
			if got, ok := w.stale(); ok {
				return got, true, nil
			}
			w.impatient = nil // the stale value is gone
		}
	}
}

// share waits for a flight that the call holds, and answers with its outcome.
func (w *call) share(f *flight, source Source) (Result, error) {
	defer f.part()
	if got, over, err := w.await(f.done); over {
		return got, err
	}
	return w.complete(f, source)
}

// maxAgain is the maximum number of loads that one call starts because the one before was
// superseded. Each of them begins after what superseded the one before, so a further one is
// needed only if the secret changes again, or its store answers versions in turns.
const maxAgain = 3

// errSuperseded makes a call start another load.
var errSuperseded = errors.New("cache: the load saw an older state than is known")

// complete answers the call with the outcome of a flight.
func (w *call) complete(f *flight, source Source) (Result, error) {
	if f.err != nil {
		return w.fail(f.err)
	}
	if f.superseded && w.again < maxAgain {
		w.again++
		return Result{}, errSuperseded
	}
	e := f.entry
	if e.secret.FetchedAt.Before(f.started) && !e.fresh(w.req, e.age(w.arrival), e.age(time.Now())) {
		return Result{}, errOldRead
	}
	e.secret.Retain() // succeeds, because the flight has a reference
	return e.result(w.req, source), nil
}

// leave answers a call whose context ended before its load did. A short deadline says
// nothing about the store, so only the result of the last finished load allows a stale
// value.
func (w *call) leave() (Result, error) {
	err := gaveUp(w.ctx.Err())
	if !w.lastWasOutage() && !w.req.unresponsive() {
		return Result{}, err
	}
	return w.fail(err)
}

// lastWasOutage reports whether the last finished load of the secret, if it is still known,
// ended in an outage.
func (w *call) lastWasOutage() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	last := w.last(w.hash, w.req, time.Now())
	return last != nil && last.failure != nil && classes[last.failure.err.Reason] == outage
}

// fail answers a call whose load failed: with a stale value if the failure is an outage, or
// the store does not respond and the broker therefore could not send the read, and
// otherwise with err. A cancelled call gets no value.
func (w *call) fail(err *secret.Error) (Result, error) {
	if cause := w.ctx.Err(); errors.Is(cause, context.Canceled) {
		return Result{}, gaveUp(cause)
	}
	if class := classes[err.Reason]; class == outage || class == fault && w.req.unresponsive() {
		if got, ok := w.stale(); ok {
			return got, nil
		}
	}
	return Result{}, err
}

// mayBeStale reports whether there is a value that may be the answer during an outage.
func (w *call) mayBeStale() bool {
	e, age := w.lookup(w.hash, w.req, time.Now())
	return e != nil && e.stale(w.req, e.age(w.arrival), age)
}

// stale answers the call with a value that has expired, if the request allows it. A
// cancelled call gets none.
func (w *call) stale() (Result, bool) {
	if w.req.MaxStale <= 0 || errors.Is(w.ctx.Err(), context.Canceled) {
		return Result{}, false
	}
	e, age := w.lookup(w.hash, w.req, time.Now())
	if e == nil || !e.stale(w.req, e.age(w.arrival), age) || !e.secret.Retain() {
		return Result{}, false
	}
	if e.fresh(w.req, e.age(w.arrival), age) { // a load has just ended
		w.count.hits.Add(1)
		return e.result(w.req, Hit), true
	}
	w.count.stale.Add(1)
	return e.result(w.req, Stale), true
}

// pause waits until the call may ask next again: for d, or until the cache closes. A Result
// with a secret is the answer.
func (w *call) pause(d time.Duration) (Result, error) {
	if end, ok := w.ctx.Deadline(); ok && time.Until(end) < d {
		return Result{}, paced(d, context.DeadlineExceeded)
	}
	begin := time.Now()
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			return Result{}, nil
		case <-w.base.Done():
			return Result{}, nil
		case <-w.ctx.Done():
			return Result{}, paced(max(d-time.Since(begin), 0), w.ctx.Err())
		case <-w.impatient:
			if got, ok := w.stale(); ok {
				return got, nil
			}
			w.impatient = nil
		}
	}
}
