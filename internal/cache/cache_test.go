package cache

import (
	"reflect"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

func TestConfig(t *testing.T) {
	for name, cfg := range map[string]Config{
		"MaxBytes":        {MaxBytes: -1},
		"LoadTimeout":     {LoadTimeout: -1},
		"MinReadInterval": {MinReadInterval: -1},
		"NegativeTTL":     {NegativeTTL: -1},
		"RefreshAhead":    {RefreshAhead: 1.1},
	} {
		if c, err := New(cfg); err == nil {
			c.Close()
			t.Errorf("New accepts a bad %s", name)
		}
	}
	got := newCache(t, Config{}).cfg
	got.Logger, got.Loaded, got.Superseded = nil, nil, nil
	want := Config{MaxBytes: 64 << 20, LoadTimeout: 10 * time.Second, MinReadInterval: time.Second, NegativeTTL: 5 * time.Second, RefreshAhead: 0.2}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("defaults %+v, want %+v", got, want)
	}
}

// A value is served from memory for its TTL, counted from the start of the read, and not
// an instant longer.
func TestTTL(t *testing.T) {
	simulated(t, Config{RefreshAhead: -1}, func(t *testing.T, c *Cache, s *fakeStore) {
		s.delay = 2 * time.Second
		began := time.Now()
		res := expect(t, c, s, want("a"), 1, Miss)
		if end := began.Add(time.Minute); !res.Expires.Equal(end) {
			t.Errorf("expires %v, want %v", res.Expires, end)
		}
		s.rotate()
		time.Sleep(58*time.Second - 1)
		expect(t, c, s, want("a"), 1, Hit)
		time.Sleep(1)
		expect(t, c, s, want("a"), 2, Miss)
	})
}

func TestTTLOfTheRequest(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, c *Cache, s *fakeStore) {
		expect(t, c, s, want("a"), 1, Miss)
		s.rotate()
		time.Sleep(10 * time.Second)

		longer := want("a")
		longer.TTL = time.Hour
		if res := expect(t, c, s, longer, 1, Hit); time.Until(res.Expires) != 50*time.Second {
			t.Errorf("a longer TTL moved the expiry of what was read before, to %v from now", time.Until(res.Expires))
		}
		shorter := want("a")
		shorter.TTL = 15 * time.Second
		if res := expect(t, c, s, shorter, 1, Hit); time.Until(res.Expires) != 5*time.Second {
			t.Errorf("a shorter TTL expires %v from now", time.Until(res.Expires))
		}
		shorter.TTL = 10 * time.Second
		expect(t, c, s, shorter, 2, Miss)
	})
}

func TestTTLZeroKeepsNothing(t *testing.T) {
	for _, ttl := range []time.Duration{0, -time.Second} {
		simulated(t, Config{}, func(t *testing.T, c *Cache, s *fakeStore) {
			req := want("a")
			req.TTL = ttl
			for n := range 3 {
				expect(t, c, s, req, 1, Miss)
				expectLoads(t, s, n+1)
			}
			if n := c.Stats().Entries; n != 0 {
				t.Errorf("%d entries are kept", n)
			}
		})
	}
}

// A secret's own expiry ends its time in the cache before the TTL does.
func TestSecretExpiry(t *testing.T) {
	simulated(t, Config{RefreshAhead: -1}, func(t *testing.T, c *Cache, s *fakeStore) {
		s.expires = time.Now().Add(20 * time.Second).Round(0)
		req := want("a").orStale(time.Hour)
		if res := expect(t, c, s, req, 1, Miss); !res.Expires.Equal(s.expires) {
			t.Errorf("expires %v, want the secret's %v", res.Expires, s.expires)
		}
		time.Sleep(20*time.Second - 1)
		expect(t, c, s, req, 1, Hit)
		time.Sleep(1)
		s.failWith(secret.Errorf(secret.ReasonStoreUnavailable, "down"))
		expectError(t, c, s, req, secret.ReasonStoreUnavailable) // not served as stale either

		time.Sleep(time.Minute)
		s.failWith(nil) // the store returns the secret although it has expired
		expectError(t, c, s, req, secret.ReasonSecretExpired)
	})
}

func TestStats(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, c *Cache, s *fakeStore) {
		expect(t, c, s, want("a"), 1, Miss)
		expect(t, c, s, want("a"), 1, Hit)
		expect(t, c, s, want("a"), 1, Hit)
		s.failWith(secret.Errorf(secret.ReasonSecretNotFound, "none"))
		expectError(t, c, s, want("b"), secret.ReasonSecretNotFound)
		expectError(t, c, s, want("b"), secret.ReasonSecretNotFound)
		got := c.Stats()
		if got.Bytes < entryOverhead {
			t.Errorf("%d bytes for one entry", got.Bytes)
		}
		got.Bytes = 0
		want := Stats{Hits: 2, Misses: 2, NegativeHits: 1, Loads: 2, LoadFailures: 1, Entries: 1}
		if got != want {
			t.Errorf("Stats() = %+v, want %+v", got, want)
		}
	})
}
