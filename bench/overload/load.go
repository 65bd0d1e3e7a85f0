package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

const (
	// maxInFlight bounds what the generator itself has under way; calls due beyond
	// it are not sent.
	maxInFlight = 100_000
	// quietRate is what the others send per second beside a noisy caller.
	quietRate = 100
)

// pick is the client for the i-th call: the callers in turn, each with its
// connections in turn.
func (t *target) pick(i int) secretbrokerv1.ResolverServiceClient {
	of := t.clients[i%len(t.clients)]
	return of[i/len(t.clients)%len(of)]
}

// closedLoop returns how many calls per second are answered when so many workers
// each wait for their answer.
func (t *target) closedLoop(ctx context.Context, o options) (perSecond float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, o.duration)
	defer cancel()
	var ok atomic.Int64
	var failed atomic.Pointer[error]
	var workers sync.WaitGroup
	begin := time.Now()
	for w := range o.workers {
		workers.Go(func() {
			for i := w; ctx.Err() == nil; i += o.workers {
				_, err := t.pick(w).Resolve(ctx, t.req)
				switch {
				case err == nil:
					ok.Add(1)
				case ctx.Err() == nil && status.Code(err) != codes.ResourceExhausted && status.Code(err) != codes.DeadlineExceeded:
					failed.Store(&err)
					return
				}
			}
		})
	}
	workers.Wait()
	if e := failed.Load(); e != nil {
		return 0, fmt.Errorf("while the capacity was measured: %w", *e)
	}
	return float64(ok.Load()) / time.Since(begin).Seconds(), nil
}

// result is what came of one level.
type result struct {
	sent, unsent int

	mu               sync.Mutex
	admitted         []time.Duration
	refused          []time.Duration
	outOfTime, other int
	firstOther       error

	late []time.Duration // of the generator, for each batch
	took time.Duration   // until the last call had its answer
}

// openLoop offers perSecond calls a second, whatever comes of them.
func (t *target) openLoop(ctx context.Context, o options, perSecond float64) *result {
	r := &result{}
	var inFlight atomic.Int64
	var calls sync.WaitGroup
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	begin := time.Now()
	for n, quiet := 0, 0; ctx.Err() == nil; {
		<-tick.C
		elapsed := time.Since(begin)
		if elapsed >= o.duration {
			break
		}
		r.late = append(r.late, elapsed-time.Duration(float64(n)/perSecond*float64(time.Second)))
		for ; n < int(elapsed.Seconds()*perSecond); n++ {
			due := begin.Add(time.Duration(float64(n) / perSecond * float64(time.Second)))
			client, counts := t.pick(n), true
			if o.noisy { // the first caller makes all calls but a few
				counts = quiet < int(elapsed.Seconds()*quietRate)
				client = t.clients[0][n%len(t.clients[0])]
				if counts {
					quiet++
					client = t.clients[1+quiet%(len(t.clients)-1)][0]
				}
			}
			if inFlight.Load() >= maxInFlight {
				r.unsent++
				continue
			}
			if counts {
				r.sent++
			}
			inFlight.Add(1)
			calls.Go(func() {
				defer inFlight.Add(-1)
				ctx, cancel := context.WithDeadline(ctx, due.Add(o.timeout))
				defer cancel()
				_, err := client.Resolve(ctx, t.req)
				if counts {
					r.add(err, time.Since(due))
				}
			})
		}
	}
	calls.Wait()
	r.took = time.Since(begin)
	return r
}

func (r *result) add(err error, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch status.Code(err) {
	case codes.OK:
		r.admitted = append(r.admitted, took)
	case codes.ResourceExhausted:
		r.refused = append(r.refused, took)
	case codes.DeadlineExceeded:
		r.outOfTime++
	default:
		r.other++
		if r.firstOther == nil {
			r.firstOther = err
		}
	}
}

// row is the rest of a table row.
func (r *result) row(d time.Duration) string {
	per := func(n int) string { return fmt.Sprintf("%.0f", float64(n)/d.Seconds()) }
	return fmt.Sprintf("%s | %s | %s | %s | %s | %s | %s | %s | %s |", per(r.sent), per(len(r.admitted)), per(len(r.refused)), per(r.outOfTime), per(r.other),
		quantile(r.admitted, 0.5), quantile(r.admitted, 0.99), quantile(r.refused, 0.5), quantile(r.late, 0.99))
}

func quantile(all []time.Duration, q float64) string {
	if len(all) == 0 {
		return "-"
	}
	slices.Sort(all)
	return all[int(q*float64(len(all)-1))].Round(10 * time.Microsecond).String()
}
