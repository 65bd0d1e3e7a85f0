package cache

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// For each reason: how long the failure is remembered, whether a cached value remains
// valid, and whether an expired one may be served as stale.
func TestFailures(t *testing.T) {
	const definite, throttle = 5 * time.Second, 7 * time.Second
	tests := []struct {
		err            *secret.Error
		remembered     time.Duration
		survives, lent bool
	}{
		{secret.Errorf(secret.ReasonSecretNotFound, ""), definite, false, false},
		{secret.Errorf(secret.ReasonSecretDisabled, ""), definite, false, false},
		{secret.Errorf(secret.ReasonSecretExpired, ""), definite, false, false},
		{secret.Errorf(secret.ReasonSecretNotYetValid, ""), definite, false, false},
		{secret.Errorf(secret.ReasonStoreAccessDenied, ""), definite, false, false},
		{secret.Errorf(secret.ReasonStoreAuthenticationFailed, ""), definite, false, false},
		{secret.Errorf(secret.ReasonStoreNotFound, ""), definite, false, false},
		{secret.Errorf(secret.ReasonStoreNotAllowed, ""), definite, false, false},
		{secret.Errorf("A_REASON_OF_TOMORROW", ""), definite, false, false},
		{secret.Errorf(secret.ReasonStoreUnavailable, ""), outageTTL, true, true},
		{secret.Errorf(secret.ReasonStoreThrottled, ""), outageTTL, true, true},
		{&secret.Error{Reason: secret.ReasonStoreThrottled, RetryAfter: throttle}, throttle, true, true},
		{&secret.Error{Reason: secret.ReasonStoreThrottled, RetryAfter: time.Hour}, 2 * definite, true, true},
		{secret.Errorf(secret.ReasonOverloaded, ""), outageTTL, true, false},
		{secret.Errorf(secret.ReasonInternal, ""), outageTTL, true, false},
	}
	for _, tt := range tests {
		name := fmt.Sprintf("%s/%v", tt.err.Reason, tt.err.RetryAfter)
		simulatedRun(t, name, Config{RefreshAhead: -1}, func(t *testing.T, c *Cache, s *fakeStore) {
			s.failWith(fmt.Errorf("wrapped: %w", tt.err))
			expectError(t, c, s, want("new"), tt.err.Reason)
			time.Sleep(tt.remembered - 1)
			expectError(t, c, s, want("new"), tt.err.Reason)
			expectLoads(t, s, 1)
			time.Sleep(1)
			expectError(t, c, s, want("new"), tt.err.Reason)
			expectLoads(t, s, 2)

			s.failWith(nil)
			req := want("known").orStale(time.Hour)
			expect(t, c, s, req, 1, Miss)
			time.Sleep(time.Second)
			s.failWith(tt.err)
			expectError(t, c, s, req.noOlderThan(0), tt.err.Reason)
			if tt.survives {
				expect(t, c, s, req, 1, Hit)
			} else {
				expectError(t, c, s, req, tt.err.Reason)
			}
			time.Sleep(time.Minute)
			if tt.lent {
				expect(t, c, s, req, 1, Stale)
				expect(t, c, s, req, 1, Stale) // also while the failure is remembered
			} else {
				expectError(t, c, s, req, tt.err.Reason)
			}
		})
	}
}

// The age of a remembered failure counts from its read.
func TestMaxAgePassesByOlderFailures(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, c *Cache, s *fakeStore) {
		s.failWith(secret.Errorf(secret.ReasonSecretNotFound, ""))
		expectError(t, c, s, want("a"), secret.ReasonSecretNotFound)
		s.failWith(nil) // the operator has created the secret
		time.Sleep(600 * time.Millisecond)
		expectError(t, c, s, want("a"), secret.ReasonSecretNotFound)
		expectError(t, c, s, want("a").noOlderThan(time.Second), secret.ReasonSecretNotFound)
		expectLoads(t, s, 1)

		began := time.Now()
		expect(t, c, s, want("a").noOlderThan(0), 1, Miss)
		if d := time.Since(began); d != 400*time.Millisecond {
			t.Errorf("the read began after %v, want it paced", d)
		}
		expect(t, c, s, want("a"), 1, Hit) // the failure is forgotten
	})
}

func TestStale(t *testing.T) {
	down := secret.Errorf(secret.ReasonStoreUnavailable, "down")
	simulated(t, Config{RefreshAhead: -1}, func(t *testing.T, c *Cache, s *fakeStore) {
		req := want("a").orStale(30 * time.Second)
		expires := expect(t, c, s, req, 1, Miss).Expires
		time.Sleep(time.Minute)

		s.failWith(down)
		if res := expect(t, c, s, req, 1, Stale); !res.Expires.Equal(expires) {
			t.Errorf("a stale answer expires %v, want %v as before", res.Expires, expires)
		}
		expectError(t, c, s, want("a"), secret.ReasonStoreUnavailable) // the request does not permit stale values
		expect(t, c, s, req.noOlderThan(time.Minute), 1, Stale)
		expectError(t, c, s, req.noOlderThan(time.Minute-1), secret.ReasonStoreUnavailable)
		shorter := req
		shorter.TTL = 30 * time.Second // the stale time counted from this TTL is over
		expectError(t, c, s, shorter, secret.ReasonStoreUnavailable)

		time.Sleep(30*time.Second - 2*time.Second)
		expect(t, c, s, req, 1, Stale)
		time.Sleep(2 * time.Second)
		expectError(t, c, s, req, secret.ReasonStoreUnavailable)

		s.failWith(nil)
		time.Sleep(outageTTL)
		expect(t, c, s, req, 1, Miss)
	})
}

// The first load after the failure is no longer remembered detects that the store has
// recovered.
func TestStaleEndsWithTheOutage(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, c *Cache, s *fakeStore) {
		req := want("a").orStale(time.Hour)
		expect(t, c, s, req, 1, Miss)
		time.Sleep(time.Minute)
		s.failWith(secret.Errorf(secret.ReasonStoreThrottled, "slow down"))
		expect(t, c, s, req, 1, Stale)
		s.failWith(nil)
		s.rotate()
		expect(t, c, s, req, 1, Stale)
		time.Sleep(outageTTL)
		expect(t, c, s, req, 2, Miss)
	})
}

// A caller's short deadline is not an outage: while the store is healthy, the caller gets
// no stale value, and its load completes.
func TestHasteIsNoOutage(t *testing.T) {
	for name, timeout := range map[string]time.Duration{"expired": -time.Second, "tiny": 1} {
		simulatedRun(t, name, Config{RefreshAhead: -1}, func(t *testing.T, c *Cache, s *fakeStore) {
			req := want("a").orStale(time.Hour)
			expect(t, c, s, req, 1, Miss)
			time.Sleep(time.Minute)
			s.set(func(s *fakeStore) { s.delay = time.Second })
			s.rotate()
			hurried := func() (Result, error) { return c.getWithin(t, timeout, s, req) }
			for range 3 { // the first starts the load, the others join it
				res, err := hurried()
				if e := checkError(t, res, err, secret.ReasonStoreUnavailable); !errors.Is(e, context.DeadlineExceeded) {
					t.Errorf("not a deadline: %v", e)
				}
			}
			time.Sleep(2 * time.Second)
			expectLoads(t, s, 2)
			if res, err := hurried(); err != nil || res.Source != Hit || res.Secret.Version != "2" {
				t.Errorf("after the load: %v, %v", res.Source, err)
			}

			// The result of the last load decides.
			time.Sleep(time.Minute)
			s.failWith(secret.Errorf(secret.ReasonStoreUnavailable, "down"))
			expect(t, c, s, req, 2, Stale)
			time.Sleep(2 * outageTTL)
			if res, err := hurried(); err != nil || res.Source != Stale {
				t.Errorf("after an outage: %v, %v", res.Source, err)
			}
			time.Sleep(2*time.Second + outageTTL)
			s.failWith(nil)
			if res, err := hurried(); err != nil || res.Source != Stale {
				t.Errorf("while the end of the outage is unknown: %v, %v", res.Source, err)
			}
			time.Sleep(2 * time.Second)
			short := req
			short.TTL = 1 // the new entry has already exceeded this TTL
			res, err := c.getWithin(t, timeout, s, short)
			checkError(t, res, err, secret.ReasonStoreUnavailable)
		})
	}
}

// A cancelled call gets no value, on any path by which it could get one.
func TestCancelledCallGetsNothingStale(t *testing.T) {
	simulated(t, Config{RefreshAhead: -1}, func(t *testing.T, c *Cache, s *fakeStore) {
		req := want("a").orStale(time.Hour)
		expect(t, c, s, req, 1, Miss)
		time.Sleep(time.Minute)
		s.failWith(secret.Errorf(secret.ReasonStoreUnavailable, "down"))
		expect(t, c, s, req, 1, Stale)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		w := call{Cache: c, ctx: ctx, req: &req, hash: c.hash(&req.Key), arrival: time.Now()}
		down := req
		down.Unresponsive = func() bool { return true }
		for name, answer := range map[string]func() (Result, error){
			"at once":             func() (Result, error) { return c.get(ctx, s, req) },
			"in the loop":         func() (Result, error) { return w.leave() },
			"with the load's end": func() (Result, error) { return w.fail(errClosed) },
			"during an outage":    func() (Result, error) { return c.get(ctx, s, down) },
		} {
			res, err := answer()
			if e := checkError(t, res, err, secret.ReasonStoreUnavailable); !errors.Is(e, context.Canceled) {
				t.Errorf("%s: not a cancellation: %v", name, e)
			}
		}
		expectLoads(t, s, 2)
	})
}

// RetryAfter of a remembered failure is the remaining time.
func TestRememberedFailureCountsDown(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, c *Cache, s *fakeStore) {
		retryAfter := func(asks time.Duration, name string, passed, want time.Duration) {
			t.Helper()
			s.failWith(&secret.Error{Reason: secret.ReasonStoreThrottled, RetryAfter: asks})
			if e := expectError(t, c, s, Request{Key: key(name), TTL: time.Minute}, secret.ReasonStoreThrottled); e.RetryAfter != asks {
				t.Errorf("at first: to be tried again after %v, want %v", e.RetryAfter, asks)
			}
			time.Sleep(passed)
			for range 2 { // the remembered error is not modified
				if e := expectError(t, c, s, Request{Key: key(name), TTL: time.Minute}, secret.ReasonStoreThrottled); e.RetryAfter != want {
					t.Errorf("to be tried again after %v, want %v", e.RetryAfter, want)
				}
			}
		}
		retryAfter(7*time.Second, "a", 3*time.Second, 4*time.Second)
		retryAfter(30*time.Second, "b", 9*time.Second, 21*time.Second)
		retryAfter(0, "c", 500*time.Millisecond, 0) // the reason's default
		expectLoads(t, s, 3)
		// If the failure is remembered for longer than the store requested, RetryAfter
		// covers the longer time.
		s.failWith(&secret.Error{Reason: secret.ReasonStoreUnavailable, RetryAfter: 100 * time.Millisecond})
		expectError(t, c, s, want("d"), secret.ReasonStoreUnavailable)
		time.Sleep(300 * time.Millisecond)
		if e := expectError(t, c, s, want("d"), secret.ReasonStoreUnavailable); e.RetryAfter != 700*time.Millisecond {
			t.Errorf("to be tried again after %v", e.RetryAfter)
		}
	})
}
