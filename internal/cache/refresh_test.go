package cache

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

func TestRefreshAhead(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, c *Cache, s *fakeStore) {
		expect(t, c, s, want("a"), 1, Miss)
		expect(t, c, s, want("unasked"), 1, Miss)
		s.rotate()
		s.delay = time.Second
		time.Sleep(48*time.Second - 1)
		expect(t, c, s, want("a"), 1, Hit)
		synctest.Wait()
		expectLoads(t, s, 2)

		time.Sleep(1)
		for range 100 { // no call waits
			expect(t, c, s, want("a"), 1, Hit)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		expectLoads(t, s, 3) // no refresh of a secret that is not requested
		if res := expect(t, c, s, want("a"), 2, Hit); time.Until(res.Expires) != 59*time.Second {
			t.Errorf("expires %v from now", time.Until(res.Expires))
		}
		if n := c.Stats().Refreshes; n != 1 {
			t.Errorf("%d refreshes", n)
		}
	})
}

// A failed refresh does not change the entry, and is retried once the failure is no longer
// remembered.
func TestRefreshInAnOutage(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, c *Cache, s *fakeStore) {
		expect(t, c, s, want("a"), 1, Miss)
		s.rotate()
		s.failWith(secret.Errorf(secret.ReasonStoreUnavailable, "down"))
		time.Sleep(50 * time.Second)
		for range 10 {
			expect(t, c, s, want("a"), 1, Hit)
			synctest.Wait()
		}
		expectLoads(t, s, 2)
		time.Sleep(outageTTL)
		expect(t, c, s, want("a"), 1, Hit)
		synctest.Wait()
		expectLoads(t, s, 3)
		s.failWith(nil)
		time.Sleep(outageTTL)
		expect(t, c, s, want("a"), 1, Hit)
		synctest.Wait()
		expect(t, c, s, want("a"), 2, Hit)
		expectLoads(t, s, 4)
	})
}

// A failed read that was not a refresh does not start one early.
func TestRefreshIsNotMadeEarlier(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, c *Cache, s *fakeStore) {
		expect(t, c, s, want("a"), 1, Miss)
		time.Sleep(10 * time.Second)
		s.failWith(secret.Errorf(secret.ReasonStoreUnavailable, "down"))
		expectError(t, c, s, want("a").noOlderThan(0), secret.ReasonStoreUnavailable)
		s.failWith(nil)
		time.Sleep(10 * time.Second)
		expect(t, c, s, want("a"), 1, Hit)
		synctest.Wait()
		expectLoads(t, s, 2)
	})
}

// A secret that turns out to be deleted or forbidden is no longer served, although its TTL
// has not passed.
func TestRefreshRevokes(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, c *Cache, s *fakeStore) {
		expect(t, c, s, want("a"), 1, Miss)
		s.failWith(secret.Errorf(secret.ReasonSecretDisabled, "disabled"))
		time.Sleep(50 * time.Second)
		expect(t, c, s, want("a"), 1, Hit)
		synctest.Wait()
		expectError(t, c, s, want("a"), secret.ReasonSecretDisabled)
		expectLoads(t, s, 2)
		if n := c.Stats().Entries; n != 0 {
			t.Errorf("%d entries are left", n)
		}
	})
}

// A very short TTL does not make refreshes more frequent than forced reads may be.
func TestRefreshIsPaced(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, c *Cache, s *fakeStore) {
		req := want("a")
		req.TTL = 1200 * time.Millisecond
		expect(t, c, s, req, 1, Miss)
		s.rotate()
		time.Sleep(960 * time.Millisecond)
		expect(t, c, s, req, 1, Hit)
		synctest.Wait()
		expectLoads(t, s, 1)
		time.Sleep(40 * time.Millisecond)
		expect(t, c, s, req, 1, Hit)
		synctest.Wait()
		expect(t, c, s, req, 2, Hit)
		expectLoads(t, s, 2)
	})
}

// Callers whose entry expires during its refresh wait for that refresh.
func TestRefreshIsJoined(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, c *Cache, s *fakeStore) {
		expect(t, c, s, want("a"), 1, Miss)
		s.rotate()
		s.delay = 9 * time.Second
		time.Sleep(55 * time.Second)
		expect(t, c, s, want("a"), 1, Hit)
		time.Sleep(5 * time.Second)
		expect(t, c, s, want("a"), 2, Shared)
		expectLoads(t, s, 2)
	})
}
