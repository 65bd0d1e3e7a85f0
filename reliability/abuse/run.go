package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// revocationLimit is the maximum time until a revocation takes effect.
	revocationLimit = time.Second
	// revocationWait is the time for which the suite waits for that.
	revocationWait = 10 * time.Second
)

// running is the state of a case while it runs.
type running struct {
	outcome
	options *options
	c       *abuse
	bed     *bed
	calls   *calls

	quiet, begun, ended time.Time
	auditRate           float64 // MiB/s

	// out is a period in which no call can be answered.
	outFrom, outUntil time.Time
}

// runCase runs a case and evaluates it.
func runCase(ctx context.Context, o *options, c *abuse) (_ *outcome, err error) {
	r := &running{outcome: outcome{Name: c.name, Title: c.title}, options: o, c: c, calls: &calls{}}
	if r.bed, err = newBed(ctx, o, c); err != nil {
		if skip := (skipError{}); errors.As(err, &skip) {
			r.Skipped = skip.Error()
			return &r.outcome, nil
		}
		return nil, err
	}
	defer func() {
		if o.keepFailures && len(r.Failures) > 0 {
			fmt.Fprintln(os.Stderr, "kept:", r.bed.world.Dir())
			r.bed.world = nil
		}
		err = errors.Join(err, r.bed.close())
	}()
	callers, err := startChild(r.bed, 0, "call", callTask{Addr: r.bed.broker.addr, CAFile: r.bed.world.Env.CAFile, Callers: c.callers(r.bed)}, r.calls.take)
	if err != nil {
		return nil, err
	}
	err = r.measure(ctx)
	if err = errors.Join(err, callers.stop()); err != nil {
		return nil, err
	}
	r.judge()
	return &r.outcome, ctx.Err()
}

// skipError is the reason why a case cannot run on this machine.
type skipError struct{ reason string }

func (e skipError) Error() string { return e.reason }

// measure makes the well-behaved callers call, first alone and then under attack.
func (r *running) measure(ctx context.Context) error {
	if err := r.awaitAnswer(ctx, victimName, time.Now()); err != nil {
		return fmt.Errorf("before the attack: %w", err)
	}
	pause(ctx, 500*time.Millisecond) // caches fill
	r.quiet = time.Now()
	r.revoke(ctx, &r.QuietRevocation)
	pause(ctx, time.Until(r.quiet.Add(max(2*time.Second, r.options.attack/3))))
	log, audit := r.bed.broker.logLines(), r.bed.broker.auditBytes()
	r.begun = time.Now()
	niceness := attackerNiceness
	if r.c.attack == "get" { // this case measures time
		niceness = 0
	}
	attack, err := startChild(r.bed, niceness, "attack", attackTask{
		Kind: r.c.attack, Addr: r.bed.broker.addr, CAFile: r.bed.world.Env.CAFile, Attackers: r.bed.attackers,
		Integration: r.c.integration, Reference: strings.Replace(r.c.reference, "file:", r.bed.reference(""), 1),
	}, nil)
	if err != nil {
		return err
	}
	until, cancel := context.WithDeadline(ctx, r.begun.Add(r.options.attack))
	defer cancel()
	var meanwhile sync.WaitGroup
	if r.c.disk == nil { // with a full disk, no caller gets a denial
		meanwhile.Go(func() { r.revokeAgain(until) })
	}
	if r.c.during != nil {
		meanwhile.Go(func() {
			if err := r.c.during(until, r); err != nil {
				r.fail("%v", err)
			}
		})
	}
	meanwhile.Wait()
	<-until.Done()
	r.ended = time.Now()
	seconds := r.ended.Sub(r.begun).Seconds()
	r.LogLinesPerSecond = float64(r.bed.broker.logLines()-log) / seconds
	r.auditRate = float64(max(0, r.bed.broker.auditBytes()-audit)) / seconds / (1 << 20)
	err = attack.stop()
	if e := json.Unmarshal(attack.out.Bytes(), &r.Attackers); e != nil {
		err = errors.Join(err, fmt.Errorf("the attack's result: %w", e))
	}
	return err
}

// revokeAgain revokes the prober's grant repeatedly.
func (r *running) revokeAgain(ctx context.Context) {
	for pause(ctx, r.options.attack/5); ctx.Err() == nil; pause(ctx, r.options.attack/4) {
		var worst float64
		r.revoke(context.WithoutCancel(ctx), &worst)
		r.Revocations = append(r.Revocations, worst)
	}
}

// revoke removes the prober's grant, waits until that takes effect, and restores the grant.
// took is the time since the request, in milliseconds.
func (r *running) revoke(ctx context.Context, took *float64) {
	begin := time.Now()
	err := r.bed.setGrant(ctx, false)
	honoured := r.awaitDenial(ctx, begin)
	*took = float64(honoured.Microseconds()) / 1000
	if err != nil {
		r.fail("RevokeUse on the other replica: %v", err)
	}
	begin = time.Now()
	err = r.bed.setGrant(ctx, true)
	if err = errors.Join(err, r.awaitAnswer(ctx, proberName, begin)); err != nil {
		r.fail("granting again: %v", err)
	}
}

// awaitDenial returns the time from begin until the prober was denied, or revocationWait. A
// later answer to the prober invalidates a denial.
func (r *running) awaitDenial(ctx context.Context, begin time.Time) time.Duration {
	const settled = 100 * time.Millisecond // time for ten calls of the prober
	for ; time.Since(begin) < revocationWait && ctx.Err() == nil; pause(ctx, 20*time.Millisecond) {
		if r.bed.broker.hasEnded() {
			break
		}
		denied := deniedFrom(r.calls.of(proberName, begin, time.Now()))
		if !denied.IsZero() && time.Since(denied) > settled {
			return denied.Sub(begin)
		}
	}
	return revocationWait
}

// deniedFrom returns the due time of the first call from which on all calls were denied for a
// missing grant; zero if there is none yet.
func deniedFrom(all []call) (denied time.Time) {
	for _, c := range slices.SortedFunc(slices.Values(all), func(a, b call) int { return a.Due.Compare(b.Due) }) {
		switch {
		case c.Reason == "": // the revocation has not taken effect
			denied = time.Time{}
		case c.Reason == "ACCESS_DENIED" && denied.IsZero():
			denied = c.Due
		}
	}
	return denied
}

// awaitAnswer waits until a caller gets an answer to a call that was due after begin.
func (r *running) awaitAnswer(ctx context.Context, caller string, begin time.Time) error {
	var last string
	for ; time.Since(begin) < revocationWait && ctx.Err() == nil; pause(ctx, 20*time.Millisecond) {
		if r.bed.broker.hasEnded() {
			break
		}
		for _, c := range r.calls.of(caller, begin, time.Now()) {
			if c.Reason == "" {
				return nil
			}
			last = c.Reason
		}
	}
	return fmt.Errorf("the %s was not answered again: %s", caller, last)
}

// suite runs the selected cases.
func suite(ctx context.Context, o options) (*report, error) {
	if err := o.prepare(ctx); err != nil {
		return nil, err
	}
	defer o.cleanUp()
	r := newReport(&o)
	for _, c := range cases {
		if wanted := names(o.only); len(wanted) > 0 && !slices.Contains(wanted, c.name) {
			continue
		}
		found, err := runCase(ctx, &o, c)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		fmt.Fprintln(os.Stderr, found.line())
		r.Cases = append(r.Cases, found)
	}
	return r, nil
}
