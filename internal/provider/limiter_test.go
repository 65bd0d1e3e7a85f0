package provider_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const kind = secret.KindAzureKeyVault

// When a pause begins, waiting reads whose deadline is earlier are refused at once.
func TestPauseEmptiesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s stores
		var once atomic.Bool
		s.fetch = func(context.Context, secret.Ref) error {
			time.Sleep(100 * time.Millisecond)
			if once.CompareAndSwap(false, true) {
				return throttledFor(30 * time.Second)
			}
			return nil
		}
		set := s.set(t, func(c *provider.SetConfig) { c.MaxConcurrentReads = 1 })
		reasons, took, errs := herd(t, set, of("i", "1"), 100, 10*time.Second)
		if reasons[secret.ReasonStoreThrottled] != 100 || took != 100*time.Millisecond || s.reads != 1 {
			t.Errorf("%v in %v with %d reads", reasons, took, s.reads)
		}
		for _, e := range errs {
			if e.RetryAfter < 29*time.Second || e.RetryAfter > time.Minute {
				t.Fatalf("to be tried again after %v", e.RetryAfter)
			}
		}
	})
}

// A read that the store has throttled goes before later reads.
func TestThrottledReadGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s stores
		var order []string
		s.fetch = func(_ context.Context, r secret.Ref) error {
			time.Sleep(time.Millisecond)
			if order = append(order, r.Name); len(order) == 1 {
				return throttledFor(time.Second)
			}
			return nil
		}
		set := s.set(t, func(c *provider.SetConfig) { c.MaxConcurrentReads = 1 })
		var wg sync.WaitGroup
		for _, name := range []string{"a", "b", "c"} {
			wg.Go(func() {
				if _, err := set.Fetch(t.Context(), of("i", "1"), ref("v", name)); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		wg.Wait()
		if got := strings.Join(order, ""); got != "aabc" {
			t.Errorf("read in the order %s", got)
		}
	})
}

// If a read gets its turn at the moment when its caller gives up, the turn is
// released.
func TestTurnAtTheLastMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s stores
		set := s.set(t, func(c *provider.SetConfig) { c.MaxConcurrentReads = 1 })
		for range 200 {
			release := make(chan struct{})
			s.fetch = func(_ context.Context, r secret.Ref) error {
				if r.Name == "holder" {
					<-release
				}
				return nil
			}
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			for _, name := range []string{"holder", "waiter"} {
				wg.Go(func() { _, _ = set.Fetch(ctx, of("i", "1"), ref("v", name)) })
				synctest.Wait()
			}
			go cancel()
			close(release)
			wg.Wait()
			if st := set.Stats(kind); st.Reading != 0 || st.Waiting != 0 {
				t.Fatalf("Stats: %+v", st)
			}
		}
	})
}

// hanging returns an outage after limit, like a vault that does not exist.
func hanging(ctx context.Context, limit time.Duration) error {
	select {
	case <-time.After(limit):
	case <-ctx.Done():
	}
	return secret.Errorf(secret.ReasonStoreUnavailable, "no answer")
}

// TestDeadStore: reads of a hanging vault fail fast after a few reads. A single read
// probes it now and then, and all reads resume as soon as one probe succeeds.
func TestDeadStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s stores
		var dead atomic.Bool
		dead.Store(true)
		s.fetch = func(ctx context.Context, _ secret.Ref) error {
			if dead.Load() {
				return hanging(ctx, 4*time.Second)
			}
			return nil
		}
		var logs strings.Builder
		set := s.set(t, func(c *provider.SetConfig) {
			c.Logger = slog.New(slog.NewTextHandler(&logs, nil))
		})
		// 64 reads detect it, and four that begin before the fifth of these has
		// failed.
		reasons, took, errs := herd(t, set, of("i", "1"), 1000, 10*time.Second)
		if reasons[secret.ReasonStoreUnavailable] != 1000 || took != 8*time.Second || s.reads != 68 {
			t.Errorf("%v in %v with %d reads", reasons, took, s.reads)
		}
		for _, e := range errs {
			if e.Message != "no answer" && (e.RetryAfter <= 0 || e.RetryAfter > 3*time.Second) {
				t.Fatalf("to be tried again after %v", e.RetryAfter)
			}
		}
		if st := set.Stats(kind); st.Trips != 1 || st.Unanswering != 1 || st.Waiting != 0 {
			t.Errorf("Stats: %+v", st)
		}
		fetch := func() (secret.Reason, time.Duration) {
			began := time.Now()
			_, err := set.Fetch(t.Context(), of("i", "1"), ref("v", "a"))
			if err == nil {
				return "", time.Since(began)
			}
			return secret.AsError(err).Reason, time.Since(began)
		}
		before := s.reads
		reasons, took, _ = herd(t, set, of("i", "1"), 100, 10*time.Second)
		if reasons[secret.ReasonStoreUnavailable] != 100 || took != 4*time.Second || s.reads != before+1 {
			t.Errorf("half open: %v in %v with %d reads", reasons, took, s.reads-before)
		}
		before = s.reads
		if why, took := fetch(); why != secret.ReasonStoreUnavailable || took != 0 || s.reads != before {
			t.Errorf("while it is taken for dead: %s after %v", why, took)
		}
		set.Supersede("i", "2") // a change of the integration does not close the breaker
		if why, took := fetch(); why != secret.ReasonStoreUnavailable || took != 0 {
			t.Errorf("after a change: %s after %v", why, took)
		}
		dead.Store(false)
		time.Sleep(3*time.Second + 1)
		if why, _ := fetch(); why != "" {
			t.Errorf("revived: %s", why)
		}
		reasons, took, _ = herd(t, set, of("i", "1"), 100, time.Second)
		if reasons["OK"] != 100 || took != 0 {
			t.Errorf("after that: %v in %v", reasons, took)
		}
		if st := set.Stats(kind); st.Trips != 1 || st.Unanswering != 0 {
			t.Errorf("Stats: %+v", st)
		}
		for _, want := range []string{"level=WARN", "circuit breaker opened", "integration_id=i store=v", "circuit breaker closed"} {
			if !strings.Contains(logs.String(), want) {
				t.Errorf("the log lacks %q:\n%s", want, logs.String())
			}
		}
	})
}

// Errors that do not show whether the store is available do not trip the breaker.
func TestNoSignOfDeath(t *testing.T) {
	for name, fetch := range map[string]func(context.Context) error{
		"definite errors": func(context.Context) error { return secret.Errorf(secret.ReasonSecretNotFound, "no") },
		"denied":          func(context.Context) error { return secret.Errorf(secret.ReasonStoreAccessDenied, "no") },
		"faults of ours":  func(context.Context) error { return fmt.Errorf("a fault") },
		"an odd answer to one secret": func(context.Context) error {
			return secret.Errorf(secret.ReasonStoreUnavailable, "odd").WithCause(fmt.Errorf("wrapped: %w", storeerror.ErrAnswered))
		},
		"callers in a hurry": func(ctx context.Context) error { return hanging(ctx, time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := stores{fetch: func(ctx context.Context, _ secret.Ref) error { return fetch(ctx) }}
				set := s.set(t, nil)
				for range 3 {
					herd(t, set, of("i", "1"), 50, time.Second)
				}
				s.mu.Lock()
				s.fetch = nil
				s.mu.Unlock()
				if _, err := set.Fetch(t.Context(), of("i", "1"), ref("v", "a")); err != nil {
					t.Error(err)
				}
				if st := set.Stats(kind); st.Trips != 0 || st.Reading != 0 {
					t.Errorf("Stats: %+v", st)
				}
			})
		})
	}
}

// A probe that is cancelled, or that panics, does not keep the breaker from trying
// again.
func TestProbeWithoutVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s stores
		s.fetch = func(ctx context.Context, _ secret.Ref) error { return hanging(ctx, 4*time.Second) }
		set := s.set(t, nil)
		herd(t, set, of("i", "1"), 5, 10*time.Second)
		time.Sleep(3*time.Second + 1)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, _ = set.Fetch(ctx, of("i", "1"), ref("v", "a"))
		s.fetch = func(context.Context, secret.Ref) error { panic("of the test") }
		func() {
			defer func() { _ = recover() }()
			_, _ = set.Fetch(t.Context(), of("i", "1"), ref("v", "a"))
			t.Error("no panic")
		}()
		s.fetch = nil
		if _, err := set.Fetch(t.Context(), of("i", "1"), ref("v", "a")); err != nil {
			t.Errorf("no third probe: %v", err)
		}
	})
}

// TestTroubleStaysWhereItIs: whatever a vault does, reads of another vault of the
// same integration, and of another integration, take their usual time.
func TestTroubleStaysWhereItIs(t *testing.T) {
	for name, trouble := range map[string]func(context.Context, secret.Ref) error{
		"hangs":     func(ctx context.Context, _ secret.Ref) error { return hanging(ctx, 4*time.Second) },
		"for ever":  func(ctx context.Context, _ secret.Ref) error { return hanging(ctx, time.Hour) },
		"resets":    func(context.Context, secret.Ref) error { return secret.Errorf(secret.ReasonStoreUnavailable, "reset") },
		"throttles": (&quota{perSecond: 10, latency: 30 * time.Millisecond, retry: time.Second}).read,
		"slow":      func(context.Context, secret.Ref) error { time.Sleep(3 * time.Second); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const latency = 30 * time.Millisecond
				var s stores
				s.fetch = func(ctx context.Context, r secret.Ref) error {
					if r.Store == "v" {
						return trouble(ctx, r)
					}
					time.Sleep(latency)
					return nil
				}
				set := s.set(t, nil)
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				wg.Go(func() { // another herd all the time
					for ctx.Err() == nil {
						herd(t, set, of("i", "1"), 500, 10*time.Second)
						time.Sleep(100 * time.Millisecond)
					}
				})
				for range 100 {
					for _, good := range []*integration.Integration{of("i", "1"), of("j", "1")} {
						began := time.Now()
						if _, err := set.Fetch(t.Context(), good, ref("good", "a")); err != nil || time.Since(began) != latency {
							t.Fatalf("through %s: %v after %v", good.ID, err, time.Since(began))
						}
					}
					time.Sleep(100 * time.Millisecond)
				}
				cancel()
				wg.Wait()
			})
		})
	}
}

func TestIntegrationLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s stores
		s.fetch = func(context.Context, secret.Ref) error { time.Sleep(time.Second); return nil }
		set := s.set(t, nil)
		in := of("i", "1")
		in.Reads.MaxConcurrent = 3
		reasons, took, _ := herd(t, set, in, 9, 10*time.Second)
		if reasons["OK"] != 9 || took != 3*time.Second || s.most["i 1"] != 3 {
			t.Errorf("%v in %v, %d at a time", reasons, took, s.most["i 1"])
		}
		s.fetch = nil
		next := of("i", "2") // effective with the next Fetch
		next.Reads.PerSecond = 10
		reasons, took, _ = herd(t, set, next, 21, 10*time.Second)
		if reasons["OK"] != 21 || took.Round(100*time.Millisecond) != 2*time.Second {
			t.Errorf("%v in %v", reasons, took)
		}
		reasons, took, errs := herd(t, set, next, 100, 5*time.Second)
		if ok := reasons["OK"]; ok < 45 || ok > 51 || reasons[secret.ReasonOverloaded] != 100-ok {
			t.Errorf("%v in %v", reasons, took)
		}
		for _, e := range errs {
			if errors.Is(e, context.DeadlineExceeded) || !errors.Is(e, provider.ErrCallersShare) || e.RetryAfter < 4*time.Second {
				t.Errorf("%v, to be tried again after %v", e, e.RetryAfter)
			}
		}
	})
}
