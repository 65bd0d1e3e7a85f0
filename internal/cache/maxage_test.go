package cache

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

func TestMaxAge(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, c *Cache, s *fakeStore) {
		expect(t, c, s, want("a"), 1, Miss)
		s.rotate()
		time.Sleep(10 * time.Second)
		expect(t, c, s, want("a").noOlderThan(10*time.Second), 1, Hit)
		expect(t, c, s, want("a").noOlderThan(10*time.Second-1), 2, Miss)
		expect(t, c, s, want("a"), 2, Hit)
		expect(t, c, s, want("a").noOlderThan(time.Hour), 2, Hit)
		time.Sleep(time.Minute)
		s.rotate()
		expect(t, c, s, want("a").noOlderThan(time.Hour), 3, Miss) // the TTL also applies
	})
}

func TestMaxAgeZeroAtOneInstantIsOneLoad(t *testing.T) {
	for name, cached := range map[string]bool{"empty": false, "filled": true} {
		simulatedRun(t, name, Config{}, func(t *testing.T, c *Cache, s *fakeStore) {
			version, loads := 1, 1
			if cached {
				expect(t, c, s, want("a"), 1, Miss)
				s.rotate()
				version, loads = 2, 2
				time.Sleep(2 * time.Second)
			}
			s.delay = time.Second
			var wrong atomic.Int64
			var wg sync.WaitGroup
			for range 1000 {
				wg.Go(func() {
					res, err := c.get(t.Context(), s, want("a").noOlderThan(0))
					if err != nil || res.Secret.Version != string(rune('0'+version)) {
						wrong.Add(1)
					}
				})
			}
			wg.Wait()
			expectLoads(t, s, loads)
			if n := wrong.Load(); n > 0 {
				t.Errorf("%d wrong answers", n)
			}
		})
	}
}

// A call that arrives after a load has begun must not use its outcome, because the secret
// may have changed in between. It must not start a second load in parallel either.
func TestMaxAgeTakesTheNextLoad(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, c *Cache, s *fakeStore) {
		s.delay = 4 * time.Second // the version is determined after 2 s
		var wg sync.WaitGroup
		wg.Go(func() { expect(t, c, s, want("a"), 1, Miss) })
		time.Sleep(3 * time.Second)
		s.rotate()
		began := time.Now()
		for range 10 {
			wg.Go(func() {
				res, err := c.get(t.Context(), s, want("a").noOlderThan(time.Second))
				if err != nil || res.Secret.Version != "2" {
					t.Errorf("version %v, %v; want 2", res.Secret, err)
				}
			})
		}
		wg.Go(func() { expect(t, c, s, want("a").noOlderThan(3*time.Second), 1, Shared) })
		wg.Wait()
		if d := time.Since(began); d != 5*time.Second {
			t.Errorf("took %v, want what is left of the first load and the second", d)
		}
		if s.overlapped() {
			t.Error("two loads at a time")
		}
		expectLoads(t, s, 2)
	})
}

func TestJoinable(t *testing.T) {
	arrival := time.Now()
	for name, tt := range map[string]struct {
		started time.Duration // since the arrival
		req     Request
		want    bool
	}{
		"began before, within the TTL":     {-time.Minute, want("a"), true},
		"began before, beyond the TTL":     {-time.Minute - 1, want("a"), false},
		"began before, within MaxAge":      {-time.Second, want("a").noOlderThan(time.Second), true},
		"began before, beyond MaxAge":      {-time.Second - 1, want("a").noOlderThan(time.Second), false},
		"MaxAge beyond the TTL":            {-time.Minute - 1, want("a").noOlderThan(time.Hour), false},
		"read now, began just before":      {-1, want("a").noOlderThan(0), false},
		"read now, began at that time":     {0, want("a").noOlderThan(0), true},
		"read now, began while it waited":  {time.Second, want("a").noOlderThan(0), true},
		"nothing is kept, began before":    {-1, Request{}, false},
		"nothing is kept, began afterward": {1, Request{}, true},
	} {
		f := &flight{started: arrival.Add(tt.started)}
		if got := f.joinable(&tt.req, arrival); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestForcedReadsArePaced(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, c *Cache, s *fakeStore) {
		expect(t, c, s, want("a").noOlderThan(0), 1, Miss) // the first load is not paced
		s.rotate()
		time.Sleep(100 * time.Millisecond)

		began := time.Now()
		var loads atomic.Int64
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				res, err := c.get(t.Context(), s, want("a").noOlderThan(0))
				if err != nil || res.Secret.Version != "2" {
					t.Errorf("version %v, %v; want 2", res.Secret, err)
				}
				if res.Source == Miss {
					loads.Add(1)
				}
			})
		}
		wg.Go(func() { // its deadline is too short, so it fails at once
			res, err := c.getWithin(t, 899*time.Millisecond, s, want("a").noOlderThan(0))
			e := checkError(t, res, err, secret.ReasonOverloaded)
			if e.RetryAfter != 900*time.Millisecond || !errors.Is(e, context.DeadlineExceeded) || !time.Now().Equal(began) {
				t.Errorf("after %v: retry after %v, %v", time.Since(began), e.RetryAfter, e)
			}
		})
		wg.Go(func() { // is cancelled while it waits
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(500*time.Millisecond, cancel)
			res, err := c.get(ctx, s, want("a").noOlderThan(0))
			e := checkError(t, res, err, secret.ReasonOverloaded)
			if e.RetryAfter != 400*time.Millisecond || !errors.Is(e, context.Canceled) {
				t.Errorf("retry after %v, %v", e.RetryAfter, e)
			}
		})
		expect(t, c, s, want("a"), 1, Hit) // requests without MaxAge do not wait
		wg.Wait()
		if d := time.Since(began); d != 900*time.Millisecond {
			t.Errorf("waited %v", d)
		}
		expectLoads(t, s, 2)
		if loads.Load() != 1 {
			t.Errorf("%d calls say that they loaded", loads.Load())
		}
		if n := c.Stats().Paced; n != 1002 {
			t.Errorf("%d calls were paced", n)
		}
	})
}

// Loads that MaxAge forces begin at least an interval apart, however many callers request
// them, and also if the entry has been evicted.
func TestForcedReadsKeepTheirInterval(t *testing.T) {
	simulated(t, Config{MinReadInterval: 3 * time.Second}, func(t *testing.T, c *Cache, s *fakeStore) {
		s.delay = 100 * time.Millisecond
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 97 * time.Millisecond)
				if i%10 == 0 {
					k := key("a")
					c.drop(c.hash(&k))
				}
				if _, err := c.get(t.Context(), s, want("a").noOlderThan(0)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for i := 1; i < len(s.starts); i++ {
			if d := s.starts[i].Sub(s.starts[i-1]); d < 3*time.Second {
				t.Errorf("a load %v after another", d)
			}
		}
		if n := len(s.starts); n < 6 {
			t.Errorf("only %d loads in 20 seconds", n)
		}
	})
}

// A call that looks again after a delay uses a value that was read while it waited.
func TestMaxAgeCountsFromTheArrival(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, c *Cache, s *fakeStore) {
		arrival := time.Now()
		time.Sleep(time.Second)
		expect(t, c, s, want("a"), 1, Miss)
		time.Sleep(time.Second)
		req := want("a").noOlderThan(0)
		if step := c.next(&req, s.loader(req.Key), c.hash(&req.Key), arrival); step.entry == nil {
			t.Errorf("next() = %+v, want the entry", step)
		}
	})
}

// A read that the loader made earlier does not count as new, and never replaces a newer
// one.
func TestOldReads(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, c *Cache, s *fakeStore) {
		began := time.Now()
		time.Sleep(10 * time.Second)
		expect(t, c, s, want("a"), 1, Miss)
		time.Sleep(10 * time.Second)
		again := func(context.Context) (*secret.Secret, error) { return secret.New("0", began, time.Time{}, nil), nil }

		res, err := c.Get(t.Context(), want("a").noOlderThan(0), again)
		checkError(t, res, err, secret.ReasonInternal)
		expect(t, c, s, want("a"), 1, Hit)

		if res, err := c.Get(t.Context(), want("b"), again); err != nil || time.Until(res.Expires) != 40*time.Second {
			t.Errorf("an old read of another secret: %v, expires %v", err, res.Expires)
		}
		res, err = c.Get(t.Context(), want("c").noOlderThan(19*time.Second), again)
		checkError(t, res, err, secret.ReasonInternal)
	})
}
