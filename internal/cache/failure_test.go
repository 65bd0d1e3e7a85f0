package cache

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
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

// If a store hangs, a call gets the stale value after half of its time, and the load goes
// on.
func TestStaleWhenTheStoreHangs(t *testing.T) {
	simulated(t, Config{RefreshAhead: -1}, func(t *testing.T, c *Cache, s *fakeStore) {
		req, other := want("a").orStale(time.Hour), want("b").orStale(time.Hour)
		expect(t, c, s, req, 1, Miss)
		expect(t, c, s, other, 1, Miss)
		time.Sleep(time.Minute)
		s.set(func(s *fakeStore) { s.delay = time.Hour })
		for _, deadline := range []time.Duration{2 * time.Second, 300 * time.Millisecond, 20 * time.Second} {
			began := time.Now()
			res, err := c.getWithin(t, deadline, s, req)
			if took := time.Since(began); err != nil || res.Source != Stale || took > deadline/2 {
				t.Errorf("deadline %v: %v, %v after %v", deadline, res.Source, err, took)
			}
			res.Secret.Release()
		}
		time.Sleep(time.Second)
		began := time.Now()
		expect(t, c, s, req, 1, Stale) // without a deadline
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("answered after %v, want half of the load's timeout", d)
		}
		if res, err := c.getWithin(t, time.Second, s, req.noOlderThan(30*time.Second)); err == nil {
			t.Errorf("%v, against max_age", res.Source)
		}
		if res, err := c.getWithin(t, time.Second, s, want("a")); err == nil {
			t.Errorf("%v, although the request does not permit stale values", res.Source)
		}

		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(700*time.Millisecond, cancel) // while no load ends
		res, err := c.get(ctx, s, other)
		checkError(t, res, err, secret.ReasonStoreUnavailable)
		s.set(func(s *fakeStore) { s.delay = 0 })
		time.Sleep(20 * time.Second)
		expect(t, c, s, req, 1, Miss)
	})
}

// The load that a call did not wait for updates the cache.
func TestLoadGoesOnAfterStaleAnswer(t *testing.T) {
	simulated(t, Config{RefreshAhead: -1}, func(t *testing.T, c *Cache, s *fakeStore) {
		req := want("a").orStale(time.Hour)
		expect(t, c, s, req, 1, Miss)
		time.Sleep(time.Minute)
		s.rotate()
		s.set(func(s *fakeStore) { s.delay = time.Second })
		if res, err := c.getWithin(t, time.Second, s, req); err != nil || res.Source != Stale || res.Secret.Version != "1" {
			t.Errorf("%v, %v", res.Source, err)
		}
		time.Sleep(600 * time.Millisecond)
		expect(t, c, s, req, 2, Hit)
		expectLoads(t, s, 2)
	})
}

// While a store is known not to respond, stale values are the answer at once, and two loads
// per store find out when it responds again. Other stores are not affected.
func TestUnresponsiveStore(t *testing.T) {
	simulated(t, Config{RefreshAhead: -1}, func(t *testing.T, c *Cache, s *fakeStore) {
		const secrets = 1000
		down := true
		of := func(n int, store string) Request {
			req := want(fmt.Sprintf("%s-%d", store, n)).orStale(time.Hour)
			req.Key.Store = store
			req.Unresponsive = func() bool { return down && store == "down" }
			return req
		}
		for n := range secrets {
			expect(t, c, s, of(n, "down"), 1, Miss)
		}
		expect(t, c, s, of(0, "up"), 1, Miss)
		time.Sleep(time.Minute)
		s.rotate()
		s.set(func(s *fakeStore) { s.delay = 4 * time.Second })
		loads, began := s.loads(), time.Now()
		for n := range secrets {
			expect(t, c, s, of(n, "down"), 1, Stale)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("answered after %v, want at once", took)
		}
		synctest.Wait()
		expectLoads(t, s, loads+maxProbes)
		if res, err := c.getWithin(t, time.Second, s, of(0, "down").noOlderThan(time.Second)); err == nil {
			t.Errorf("%v, against max_age", res.Source)
		}
		if res, err := c.getWithin(t, time.Second, s, of(secrets, "down")); err == nil {
			t.Errorf("%v of a secret that has never been read", res.Source)
		}
		s.set(func(s *fakeStore) { s.delay = 10 * time.Millisecond })
		expect(t, c, s, of(0, "up"), 2, Miss)
		time.Sleep(5 * time.Second)
		c.mu.Lock()
		if len(c.probes) != 0 {
			t.Errorf("probes after all have ended: %v", c.probes)
		}
		c.mu.Unlock()
		down = false
		expect(t, c, s, of(0, "down"), 2, Hit) // read by a probe
		expect(t, c, s, of(secrets-1, "down"), 2, Miss)
	})
}

// A read that the broker could not send because the store does not respond allows a stale
// value, and one that it could not send for another reason does not.
func TestStaleIfTheReadCannotBeSent(t *testing.T) {
	simulated(t, Config{RefreshAhead: -1}, func(t *testing.T, c *Cache, s *fakeStore) {
		req := want("a").orStale(time.Hour)
		expect(t, c, s, req, 1, Miss)
		time.Sleep(time.Minute)
		s.failWith(secret.Errorf(secret.ReasonOverloaded, "the queue is full"))
		expectError(t, c, s, req, secret.ReasonOverloaded)
		time.Sleep(outageTTL)
		asked := 0
		req.Unresponsive = func() bool { asked++; return asked > 1 } // known only after the read
		expect(t, c, s, req, 1, Stale)
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
