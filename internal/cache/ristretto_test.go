package cache

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dgraph-io/ristretto/v2"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// The tests of this file are named after properties of ristretto that surprise callers.
// Each test fails if Cache does not handle its property.

// swapStore gives c another ristretto cache, which a test can inspect.
func swapStore(t *testing.T, c *Cache, change func(*ristretto.Config[uint64, *entry])) {
	t.Helper()
	cfg := c.storeConfig()
	change(cfg)
	store, err := ristretto.NewCache(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c.store.Close()
	c.store = store
}

// Set stores a new entry asynchronously.
func TestRistrettoSetsLate(t *testing.T) {
	c, s := newCache(t, Config{}), newFakeStore()
	for i := range 1000 {
		expect(t, c, s, want(fmt.Sprint(i)), 1, Miss)
		expect(t, c, s, want(fmt.Sprint(i)), 1, Hit)
	}
}

// If Set is called twice in a row for a new key, the first entry remains.
func TestRistrettoFirstSetWins(t *testing.T) {
	c, s := newCache(t, Config{MinReadInterval: 1}), newFakeStore()
	for i := range 1000 {
		req := want(fmt.Sprint(i))
		if _, err := c.get(t.Context(), s, req); err != nil {
			t.Fatal(err)
		}
		s.rotate()
		if _, err := c.get(t.Context(), s, req.noOlderThan(0)); err != nil {
			t.Fatal(err)
		}
		expect(t, c, s, req, i+2, Hit)
	}
}

// Set drops entries that do not fit into its buffer, without calling a callback.
func TestRistrettoDropsSets(t *testing.T) {
	c, s := newCache(t, Config{}), newFakeStore()
	expect(t, c, s, want("a"), 1, Miss)
	s.rotate()

	// An entry above the bound is rejected by a callback that does not return.
	stuck, block := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(block) })
	t.Cleanup(release) // runs before Close
	swapStore(t, c, func(cfg *ristretto.Config[uint64, *entry]) {
		cfg.MaxCost = 1 << 20
		cfg.OnReject = func(*ristretto.Item[*entry]) { close(stuck); <-block }
	})
	store := c.store
	store.Set(0, &entry{}, 2<<20)
	<-stuck                      // the worker remains in the callback
	const bufferSize = 32 * 1024 // minus one below, for the Del before the Set
	for i := range bufferSize - 1 {
		if !store.Set(uint64(i+1), &entry{}, 1) {
			t.Fatalf("the buffer is full after %d", i)
		}
	}
	expect(t, c, s, want("a"), 2, Miss) // answered although Set drops the entry
	if n := c.Stats().DroppedSets; n != 1 {
		t.Errorf("%d dropped sets", n)
	}
	release()
	store.Wait()
	expect(t, c, s, want("a"), 2, Miss)
	expect(t, c, s, want("a"), 2, Hit)
}

// TinyLFU rejects new keys when the cache is full of other keys. This costs only loads:
// answers are correct and failures are remembered.
func TestRistrettoRejectsNewKeys(t *testing.T) {
	simulated(t, Config{MaxBytes: 64 << 10}, func(t *testing.T, c *Cache, s *fakeStore) {
		s.size = 1000
		// Every hit counts immediately.
		swapStore(t, c, func(cfg *ristretto.Config[uint64, *entry]) { cfg.BufferItems = 1 })
		for i := range 500 { // make some keys hot
			if _, err := c.get(t.Context(), s, want(fmt.Sprint("hot", i%25))); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		loads := s.loads()
		for i := range 200 {
			expect(t, c, s, want(fmt.Sprint("cold", i)), 1, Miss)
		}
		expectLoads(t, s, loads+200)
		st := c.Stats()
		if st.RejectedSets == 0 {
			t.Error("nothing was rejected: this tests nothing")
		}
		if st.Bytes > 64<<10 {
			t.Errorf("%d bytes", st.Bytes)
		}

		s.failWith(secret.Errorf(secret.ReasonSecretNotFound, ""))
		for range 2 {
			for i := range 200 {
				expectError(t, c, s, want(fmt.Sprint("missing", i)), secret.ReasonSecretNotFound)
			}
		}
		expectLoads(t, s, loads+400)
	})
}

// An older value never hides a newer one, under any pressure.
func TestRistrettoEvicts(t *testing.T) {
	simulated(t, Config{MaxBytes: 32 << 10}, func(t *testing.T, c *Cache, s *fakeStore) {
		s.size = 500
		for range 20 {
			for i := range 100 {
				req := want(fmt.Sprint(i))
				req.TTL = time.Hour
				res, err := c.get(t.Context(), s, req.noOlderThan(time.Second))
				if err != nil || res.Secret.Version != fmt.Sprint(s.version) {
					t.Fatalf("version %s, %v; want %d", res.Secret.Version, err, s.version)
				}
			}
			s.rotate()
			time.Sleep(2 * time.Second)
		}
		if st := c.Stats(); st.Evictions == 0 || st.Entries > 40 || st.Bytes > 32<<10 {
			t.Errorf("Stats() = %+v", st)
		}
	})
}

// An update in place may make an entry grow beyond the bound of the cache.
func TestRistrettoUpdatesDoNotEvict(t *testing.T) {
	simulated(t, Config{MaxBytes: 64 << 10}, func(t *testing.T, c *Cache, s *fakeStore) {
		for i := range 60 {
			expect(t, c, s, want(fmt.Sprint(i)), 1, Miss)
		}
		s.size = 3000
		time.Sleep(2 * time.Second)
		for i := range 60 {
			expect(t, c, s, want(fmt.Sprint(i)).noOlderThan(0), 1, Miss)
		}
		if n := c.Stats().Bytes; n > 64<<10 {
			t.Errorf("%d bytes, %d are allowed", n, 64<<10)
		}
	})
}

// An entry that is too large is rejected silently, and the old entry remains. An entry
// that is almost too large evicts all others.
func TestRistrettoRejectsWhatIsTooLarge(t *testing.T) {
	for _, size := range []int{8 << 10, 40 << 10} {
		simulated(t, Config{MaxBytes: 64 << 10}, func(t *testing.T, c *Cache, s *fakeStore) {
			expect(t, c, s, want("other"), 1, Miss)
			expect(t, c, s, want("a"), 1, Miss)
			s.rotate()
			s.size = size
			time.Sleep(2 * time.Second)
			expect(t, c, s, want("a").noOlderThan(0), 2, Miss)
			expect(t, c, s, want("a"), 2, Miss)
			expect(t, c, s, want("other"), 1, Hit)
			if st := c.Stats(); st.RejectedSets != 2 || st.Entries != 1 {
				t.Errorf("%d bytes: Stats() = %+v", size, st)
			}
		})
	}
}

// Expired entries are hidden at once but remain in the heap until a sweep, and a TTL of
// zero means no expiry.
func TestRistrettoKeepsExpiredEntries(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, c *Cache, s *fakeStore) {
		for i := range 100 {
			expect(t, c, s, want(fmt.Sprint(i)), 1, Miss)
			expect(t, c, s, want(fmt.Sprint("lent", i)).orStale(time.Minute), 1, Miss)
		}
		s.delay = time.Minute
		req := want("slow") // its TTL has passed exactly when the read ends
		slow := newCache(t, Config{LoadTimeout: time.Hour})
		expect(t, slow, s, req, 1, Miss)
		if n := slow.Stats().Entries; n != 0 {
			t.Errorf("%d entries are kept for ever", n)
		}
		time.Sleep(10 * time.Second)
		if n := c.Stats().Entries; n != 100 {
			t.Errorf("%d entries after the TTL, want those that may still be lent", n)
		}
		time.Sleep(time.Minute)
		if st := c.Stats(); st.Entries != 0 || st.Bytes != 0 {
			t.Errorf("%d entries, %d bytes in memory", st.Entries, st.Bytes)
		}
	})
}

// ristretto keeps only a 64-bit hash of a key, so two keys may collide.
func TestRistrettoForgetsKeys(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, c *Cache, s *fakeStore) {
		expect(t, c, s, want("theirs"), 1, Miss)
		theirs, mine := key("theirs"), key("mine")
		collide := func() {
			c.store.Set(c.hash(&mine), c.peek(c.hash(&theirs), &theirs), 1)
			c.store.Wait()
		}
		collide()
		res := expect(t, c, s, want("mine"), 1, Miss)
		if v, err := res.Secret.Select(""); err != nil || v.Reveal() != "mine/1" {
			t.Fatalf("another key's value (%v)", err)
		}
		expect(t, c, s, want("mine"), 1, Hit)

		collide()
		s.failWith(secret.Errorf(secret.ReasonStoreUnavailable, "down"))
		time.Sleep(2 * time.Second)
		expectError(t, c, s, want("mine").orStale(time.Hour), secret.ReasonStoreUnavailable)
	})
}

// Set panics after Close, and Wait may hang.
func TestRistrettoCloseRacesSet(t *testing.T) {
	for range 50 {
		c, s := newCache(t, Config{MinReadInterval: 1}), newFakeStore()
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				_, _ = c.get(context.Background(), s, want(fmt.Sprint(i)))
				_, _ = c.get(context.Background(), s, want(fmt.Sprint(i)).noOlderThan(0))
			})
		}
		c.Close()
		wg.Wait()
	}
}

// Deleting an absent key calls the callback without an entry.
func TestRistrettoExitsNothing(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, c *Cache, s *fakeStore) {
		expect(t, c, s, want("a"), 1, Miss)
		for i := range 10 {
			c.drop(uint64(i))
		}
		if n := c.Stats().Entries; n != 1 {
			t.Errorf("%d entries", n)
		}
	})
}
