package cache

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestSuperseded: the outcome of a load that saw an older state than is known is not kept
// and not reported, and its calls load again, also if the secret changes meanwhile, but not
// without end.
func TestSuperseded(t *testing.T) {
	var mu sync.Mutex
	known, reported := "", 0
	cfg := Config{
		Superseded: func(k *Key, version string, readAt time.Time) bool {
			mu.Lock()
			defer mu.Unlock()
			if *k != key("a") || readAt.IsZero() {
				t.Errorf("asked about %v, read at %v", *k, readAt)
			}
			return known != "" && version != known
		},
		Loaded: func(Load) { reported++ },
	}
	simulated(t, cfg, func(t *testing.T, c *Cache, s *fakeStore) {
		s.set(func(s *fakeStore) { s.delay = 2 * time.Second })
		var calls sync.WaitGroup
		for range 3 {
			calls.Go(func() {
				got, err := c.get(t.Context(), s, want("a"))
				if err != nil || got.Secret.Version != "2" {
					t.Errorf("got %+v, %v", got, err)
				}
				got.Secret.Release()
			})
		}
		time.Sleep(1500 * time.Millisecond) // the load has seen version 1
		s.rotate()
		mu.Lock()
		known = "2"
		mu.Unlock()
		if _, ok := c.Hit(new(want("a"))); ok {
			t.Error("a value before the end of the load")
		}
		calls.Wait()
		expectLoads(t, s, 2)
		if reported != 1 {
			t.Errorf("%d loads were reported", reported)
		}
		expect(t, c, s, want("a"), 2, Hit).Secret.Release()

		time.Sleep(2 * time.Minute)
		var changing sync.WaitGroup
		changing.Go(func() { // twice during the loads
			for i, version := range []string{"3", "4"} {
				time.Sleep(1500*time.Millisecond + time.Duration(i)*500*time.Millisecond)
				s.rotate()
				mu.Lock()
				known = version
				mu.Unlock()
			}
		})
		expect(t, c, s, want("a"), 4, Miss).Secret.Release()
		changing.Wait()
		expectLoads(t, s, 5)

		mu.Lock()
		known = "another"
		mu.Unlock()
		time.Sleep(2 * time.Minute)
		expect(t, c, s, want("a"), 4, Miss).Secret.Release()
		expectLoads(t, s, 5+1+maxAgain)
		if _, ok := c.Hit(new(want("a"))); ok {
			t.Error("a superseded outcome is kept")
		}
	})
}

// TestDrop: Drop removes an entry that is older than is known, which is then wiped, and no
// other one.
func TestDrop(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, c *Cache, s *fakeStore) {
		a := expect(t, c, s, want("a"), 1, Miss).Secret
		expect(t, c, s, want("b"), 1, Miss).Secret.Release()
		readAt := a.FetchedAt
		a.Release()
		time.Sleep(time.Second)
		if c.Drop(key("a"), func(version string, at time.Time) bool {
			if version != "1" || !at.Equal(readAt) {
				t.Errorf("asked about %q, read at %v", version, at)
			}
			return false
		}) || c.Drop(key("none"), func(string, time.Time) bool { return true }) {
			t.Error("dropped what is not older, or what is not there")
		}
		expect(t, c, s, want("a"), 1, Hit).Secret.Release()
		s.rotate()
		if !c.Drop(key("a"), func(string, time.Time) bool { return true }) {
			t.Error("not dropped")
		}
		if a.Retain() {
			t.Error("the dropped value is not wiped")
		}
		expect(t, c, s, want("b"), 1, Hit).Secret.Release()
		expect(t, c, s, want("a").orStale(time.Hour), 2, Miss).Secret.Release()
		c.DropAll()
		synctest.Wait()
		if n := c.Stats().Entries; n != 0 {
			t.Errorf("%d entries are left", n)
		}
		expect(t, c, s, want("b"), 2, Miss).Secret.Release()
		c.Close()
		c.DropAll()
		if c.Drop(key("b"), func(string, time.Time) bool { return true }) {
			t.Error("dropped from a closed cache")
		}
	})
}

// TestDropDuringLoads: drops do not interfere with loads, hits and Close.
func TestDropDuringLoads(t *testing.T) {
	c := newCache(t, Config{MaxBytes: 1 << 20})
	var calls sync.WaitGroup
	for g := range 4 {
		calls.Go(func() {
			for i := range 300 {
				k := key(fmt.Sprint(i % 7))
				got, err := c.Get(context.Background(), Request{Key: k, TTL: time.Minute}, func(context.Context) (*secret.Secret, error) {
					return secret.New("1", time.Now(), time.Time{}, []byte("value")), nil
				})
				if err != nil {
					t.Error(err)
					return
				}
				got.Secret.Release()
				switch {
				case i%5 == g:
					c.Drop(k, func(string, time.Time) bool { return true })
				case i%50 == g:
					c.DropAll()
				}
			}
		})
	}
	calls.Wait()
	c.DropAll()
	if n := c.Stats().Entries; n != 0 {
		t.Errorf("%d entries are left", n)
	}
}

// TestRevise: what an integration read with earlier settings is not answered when the
// settings return, also not if the load ends after the change.
func TestRevise(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, c *Cache, s *fakeStore) {
		with := func(id, revision, name string) Request {
			r := want(name)
			r.Key.Integration, r.Key.Revision = id, revision
			return r
		}
		for _, r := range []Request{with("it", "1", "a"), with("it", "1", "b"), with("it", "2", "a"), with("other", "1", "a")} {
			expect(t, c, s, r, 1, Miss).Secret.Release()
		}
		s.set(func(s *fakeStore) { s.delay = 2 * time.Second })
		var loading sync.WaitGroup
		loading.Go(func() {
			expect(t, c, s, with("it", "1", "late"), 1, Miss).Secret.Release()
		})
		time.Sleep(1500 * time.Millisecond)
		c.Revise(map[string]string{"it": "2", "none": ""})
		loading.Wait()
		s.rotate()
		expect(t, c, s, with("it", "2", "a"), 1, Hit).Secret.Release()
		expect(t, c, s, with("other", "1", "a"), 1, Hit).Secret.Release()
		c.Revise(map[string]string{"it": "1"})
		for _, name := range []string{"a", "b", "late"} {
			expect(t, c, s, with("it", "1", name), 2, Miss).Secret.Release()
		}
		c.Revise(map[string]string{"it": "", "other": ""})
		synctest.Wait()
		if n := c.Stats().Entries; n != 0 {
			t.Errorf("%d entries are left", n)
		}
		c.Revise(nil)
	})
}
