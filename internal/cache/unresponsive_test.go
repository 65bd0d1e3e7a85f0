package cache

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

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

// While a store is known not to respond, refreshes of values that have not expired are
// bounded as well, and made up for afterwards.
func TestRefreshesOfAnUnresponsiveStore(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, c *Cache, s *fakeStore) {
		const secrets = 100
		down := true
		of := func(n int) Request {
			req := want(strconv.Itoa(n)).orStale(time.Hour)
			req.Unresponsive = func() bool { return down }
			return req
		}
		for n := range secrets {
			expect(t, c, s, of(n), 1, Miss)
		}
		time.Sleep(50 * time.Second)
		s.rotate()
		s.set(func(s *fakeStore) { s.delay = 3 * time.Second })
		for range 3 {
			for n := range secrets {
				expect(t, c, s, of(n), 1, Hit)
			}
			synctest.Wait()
			expectLoads(t, s, secrets+maxProbes)
			time.Sleep(800 * time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		down = false
		s.set(func(s *fakeStore) { s.delay = 0 })
		for range 2 {
			for n := range secrets {
				res, err := c.get(t.Context(), s, of(n))
				if err != nil {
					t.Fatal(err)
				}
				res.Secret.Release()
			}
			time.Sleep(outageTTL)
		}
		for n := range secrets {
			expect(t, c, s, of(n), 2, Hit)
		}
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
