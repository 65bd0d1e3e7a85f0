package provider_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// quota answers reads after latency, at most perSecond of them in a second, and
// throttles the rest at once. The second is either a fixed one or a sliding window.
type quota struct {
	perSecond int
	sliding   bool
	latency   time.Duration
	retry     time.Duration

	mu     sync.Mutex
	taken  []time.Time
	reads  int
	denied int
}

func (q *quota) read(ctx context.Context, _ secret.Ref) error {
	q.mu.Lock()
	q.reads++
	now := time.Now()
	for len(q.taken) > 0 && (q.sliding && now.Sub(q.taken[0]) >= time.Second || !q.sliding && q.taken[0].Unix() != now.Unix()) {
		q.taken = q.taken[1:]
	}
	full := len(q.taken) >= q.perSecond
	if full {
		q.denied++
	} else {
		q.taken = append(q.taken, now)
	}
	q.mu.Unlock()
	if full {
		return throttledFor(q.retry)
	}
	select {
	case <-time.After(q.latency):
		return nil
	case <-ctx.Done():
		return secret.Errorf(secret.ReasonStoreUnavailable, "cut short").WithCause(ctx.Err())
	}
}

// herd reads n different secrets of a vault concurrently, each with the timeout
// within, and returns the results and the total time.
func herd(t *testing.T, set *provider.Set, in *integration.Integration, n int, within time.Duration) (map[secret.Reason]int, time.Duration, []*secret.Error) {
	var (
		mu      sync.Mutex
		reasons = make(map[secret.Reason]int)
		errs    []*secret.Error
		wg      sync.WaitGroup
		began   = time.Now()
	)
	for i := range n {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			_, err := set.Fetch(ctx, in, ref("v", fmt.Sprint(i)))
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				reasons["OK"]++
				return
			}
			e := secret.AsError(err)
			reasons[e.Reason]++
			errs = append(errs, e)
		})
	}
	wg.Wait()
	return reasons, time.Since(began), errs
}

// TestStartupHerd: 2,000 secrets that are not yet cached, of a vault that permits 400
// reads a second. Five seconds is the minimum.
func TestStartupHerd(t *testing.T) {
	for name, q := range map[string]*quota{
		"fixed seconds":      {perSecond: 400, retry: time.Second},
		"sliding second":     {perSecond: 400, retry: time.Second, sliding: true},
		"without Retry":      {perSecond: 400},
		"Retry of 10 ms":     {perSecond: 400, retry: 10 * time.Millisecond, sliding: true},
		"a slow vault":       {perSecond: 400, retry: time.Second, latency: 120 * time.Millisecond},
		"an enormous window": {perSecond: 2001},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if q.latency == 0 {
					q.latency = 30 * time.Millisecond
				}
				s := stores{fetch: q.read}
				set := s.set(t, nil)
				reasons, took, _ := herd(t, set, of("i", "1"), 2000, 10*time.Second)
				t.Logf("%v in %v with %d reads, %d of them throttled", reasons, took.Round(time.Millisecond), q.reads, q.denied)
				if reasons["OK"] != 2000 {
					t.Errorf("answered: %v", reasons)
				}
				if q.reads > 2300 {
					t.Errorf("%d reads", q.reads)
				}
				if took > 8*time.Second {
					t.Errorf("took %v", took)
				}
				if st := set.Stats(kind); st.Throttled != uint64(q.denied) || st.Waiting != 0 || st.Reading != 0 || st.Trips != 0 {
					t.Errorf("Stats: %+v", st)
				}
			})
		})
	}
}

// A read that cannot be served in time is refused as soon as that is known, with the
// time to retry; the others are served.
func TestHerdInAHurry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &quota{perSecond: 400, retry: time.Second, latency: 30 * time.Millisecond}
		s := stores{fetch: q.read}
		set := s.set(t, nil)
		reasons, took, errs := herd(t, set, of("i", "1"), 2000, 3*time.Second)
		t.Logf("%v in %v with %d reads", reasons, took, q.reads)
		if reasons["OK"] < 800 || reasons["OK"]+reasons[secret.ReasonStoreThrottled] != 2000 || took >= 3*time.Second {
			t.Errorf("%v in %v", reasons, took)
		}
		for _, e := range errs {
			if errors.Is(e, context.DeadlineExceeded) {
				t.Fatalf("told when its time was over: %v", e)
			}
			if e.RetryAfter < time.Second || e.RetryAfter > 10*time.Second {
				t.Fatalf("to be tried again after %v", e.RetryAfter)
			}
		}
		// The refused reads come back at that time.
		time.Sleep(4 * time.Second)
		again, took, _ := herd(t, set, of("i", "1"), 700, 3*time.Second)
		if again["OK"] != 700 {
			t.Errorf("the second time: %v in %v", again, took)
		}
	})
}

// A read that would not end in time is not started; one that need not wait is.
func TestDeadlineBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s stores
		s.fetch = func(context.Context, secret.Ref) error { time.Sleep(time.Second); return nil }
		set := s.set(t, func(c *provider.SetConfig) { c.MaxConcurrentReads = 2 })
		for range 50 { // until the duration of reads is known
			if _, err := set.Fetch(t.Context(), of("i", "1"), ref("v", "a")); err != nil {
				t.Fatal(err)
			}
		}
		before := s.reads
		reasons, took, errs := herd(t, set, of("i", "1"), 10, 3500*time.Millisecond)
		if reasons["OK"] != 6 || reasons[secret.ReasonOverloaded] != 4 || s.reads != before+6 || took != 3*time.Second {
			t.Errorf("%v in %v with %d reads", reasons, took, s.reads-before)
		}
		for _, e := range errs {
			if errors.Is(e, context.DeadlineExceeded) || e.RetryAfter < time.Second || e.RetryAfter > 5*time.Second {
				t.Errorf("%v, to be tried again after %v", e, e.RetryAfter)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		before = s.reads
		if _, err := set.Fetch(ctx, of("i", "1"), ref("v", "a")); err != nil || s.reads != before+1 {
			t.Errorf("in a hurry, but alone: %v", err)
		}
		<-ctx.Done()
		if _, err := set.Fetch(ctx, of("i", "1"), ref("v", "a")); secret.AsError(err).Reason != secret.ReasonOverloaded || s.reads != before+1 {
			t.Errorf("too late: %v", err)
		}
	})
}
