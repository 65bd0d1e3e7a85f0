package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dgraph-io/ristretto/v2"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// watchedStore returns secrets and keeps track of their buffers.
type watchedStore struct {
	mu      sync.Mutex
	size    int
	delay   time.Duration
	expires time.Duration // time from the read to the secret's expiry
	fail    error         // returned together with the secret
	bufs    [][]byte
	secrets []*secret.Secret
}

// text returns the content of every secret with that key and size.
func text(name string, size int) string {
	return name + ":" + strings.Repeat("v", max(0, size-len(name)-1))
}

func (s *watchedStore) loader(k Key) Loader {
	return func(ctx context.Context) (*secret.Secret, error) {
		began := time.Now()
		s.mu.Lock()
		delay := s.delay
		s.mu.Unlock()
		if err := sleep(ctx, delay); err != nil {
			return nil, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		var expires time.Time
		if s.expires != 0 {
			expires = began.Add(s.expires)
		}
		b := []byte(text(k.Name, s.size))
		sec := secret.New(fmt.Sprint(len(s.bufs)), began, expires, b)
		s.bufs, s.secrets = append(s.bufs, b), append(s.secrets, sec)
		return sec, s.fail
	}
}

// expectWiped checks that exactly the reads with these numbers have been wiped.
func (s *watchedStore) expectWiped(t *testing.T, numbers ...int) {
	t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	want := make(map[int]bool)
	for _, n := range numbers {
		want[n] = true
	}
	for i, b := range s.bufs {
		gone := bytes.Count(b, []byte{0}) == len(b)
		if gone != want[i] {
			t.Errorf("read %d: wiped %v, want %v", i, gone, want[i])
		}
		if retained := s.secrets[i].Retain(); retained == gone {
			t.Errorf("read %d: wiped %v, yet Retain() = %v", i, gone, retained)
		} else if retained {
			s.secrets[i].Release()
		}
	}
}

// ask makes a call and releases its answer at once.
func (s *watchedStore) ask(t *testing.T, c *Cache, req Request) {
	t.Helper()
	res := s.hold(t, c, req)
	res.Secret.Release()
}

// hold makes a call and keeps its answer.
func (s *watchedStore) hold(t *testing.T, c *Cache, req Request) Result {
	t.Helper()
	res, err := c.Get(t.Context(), req, s.loader(req.Key))
	if err != nil {
		t.Fatalf("Get: %v", err)
	}
	return res
}

func bubble(t *testing.T, cfg Config, f func(t *testing.T, c *Cache, s *watchedStore)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newCache(t, cfg), &watchedStore{size: 100}) })
}

// bubbleRun runs bubble as a subtest.
func bubbleRun(t *testing.T, name string, cfg Config, f func(t *testing.T, c *Cache, s *watchedStore)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { bubble(t, cfg, f) })
}

// An entry is wiped exactly when it can no longer be served, not by the next sweep of
// ristretto, which never runs in this test.
func TestWipedWhenExpired(t *testing.T) {
	for name, tt := range map[string]struct {
		req     Request
		expires time.Duration
		life    time.Duration
	}{
		"TTL":             {want("a"), 0, time.Minute},
		"stale":           {want("a").orStale(time.Hour), 0, time.Hour + time.Minute},
		"its own expiry":  {want("a").orStale(time.Hour), 40 * time.Second, 40 * time.Second},
		"a short one":     {Request{Key: key("a"), TTL: 1}, 0, 1},
		"a very long one": {Request{Key: key("a"), TTL: 24 * time.Hour}, 0, 24 * time.Hour},
	} {
		bubbleRun(t, name, Config{RefreshAhead: -1}, func(t *testing.T, c *Cache, s *watchedStore) {
			swapStore(t, c, func(cfg *ristretto.Config[uint64, *entry]) { cfg.TtlTickerDurationInSec = 1 << 30 })
			s.expires = tt.expires
			s.ask(t, c, tt.req)
			time.Sleep(tt.life - 1)
			s.expectWiped(t)
			time.Sleep(1)
			s.expectWiped(t, 0)
			if st := c.Stats(); st.Entries != 0 || st.Evictions != 0 {
				t.Errorf("%d entries are left, %d evictions", st.Entries, st.Evictions)
			}
			s.ask(t, c, tt.req) // a miss like any other
			s.expectWiped(t, 0)
		})
	}
}

func TestWipedWhenReplaced(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, c *Cache, s *watchedStore) {
		s.ask(t, c, want("a"))
		s.ask(t, c, want("b"))
		time.Sleep(10 * time.Second)
		s.ask(t, c, want("a").noOlderThan(0))
		s.expectWiped(t, 0)
		time.Sleep(40 * time.Second)
		s.ask(t, c, want("b")) // starts a refresh
		s.expectWiped(t, 0, 1)
	})
}

func TestWipedWhenDropped(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, c *Cache, s *watchedStore) {
		s.ask(t, c, want("a"))
		s.ask(t, c, want("b"))
		gone := func(context.Context) (*secret.Secret, error) {
			return nil, secret.Errorf(secret.ReasonSecretNotFound, "gone")
		}
		time.Sleep(10 * time.Second)
		res, err := c.Get(t.Context(), want("a").noOlderThan(0), gone)
		checkError(t, res, err, secret.ReasonSecretNotFound)
		s.expectWiped(t, 0)
	})
}

func TestWipedWhenClosed(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, c *Cache, s *watchedStore) {
		for i := range 10 {
			s.ask(t, c, want(fmt.Sprint(i)))
		}
		held := s.hold(t, c, want("held"))
		c.Close()
		s.expectWiped(t, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
		held.Secret.Release()
		s.expectWiped(t, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
	})
}

// Answers that are being made from an entry remain complete however the entry is removed,
// and the last of them wipes it.
func TestHeldAnswersAreWhole(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, c *Cache, s *watchedStore){
		"expires": func(*testing.T, *Cache, *watchedStore) { time.Sleep(time.Minute) },
		"dropped": func(_ *testing.T, c *Cache, _ *watchedStore) { k := key("a"); c.drop(c.hash(&k)) },
		"closed":  func(_ *testing.T, c *Cache, _ *watchedStore) { c.Close() },
		"replaced": func(t *testing.T, c *Cache, s *watchedStore) {
			time.Sleep(time.Second)
			s.ask(t, c, want("a").noOlderThan(0))
		},
	} {
		bubbleRun(t, name, Config{}, func(t *testing.T, c *Cache, s *watchedStore) {
			first, second := s.hold(t, c, want("a")), s.hold(t, c, want("a"))
			end(t, c, s)
			s.expectWiped(t)
			first.Secret.Release()
			s.expectWiped(t)
			v, err := second.Secret.Select("")
			if err != nil || v.Reveal() != text("a", 100) {
				t.Errorf("the held answer has changed (%v)", err)
			}
			second.Secret.Release()
			s.expectWiped(t, 0)
		})
	}
}

// A value that is never kept is wiped when the last caller that waited for it has released
// it.
func TestWipedWhenNotKept(t *testing.T) {
	for name, prepare := range map[string]func(s *watchedStore) Request{
		"no TTL":    func(*watchedStore) Request { return Request{Key: key("a"), MaxAge: time.Hour, HasMaxAge: true} },
		"too large": func(s *watchedStore) Request { s.size = 10 << 10; return want("a") },
		"too late":  func(s *watchedStore) Request { return Request{Key: key("a"), TTL: s.delay} },
	} {
		bubbleRun(t, name, Config{MaxBytes: 64 << 10}, func(t *testing.T, c *Cache, s *watchedStore) {
			s.delay = time.Second
			req := prepare(s)
			var held [3]Result
			var callers sync.WaitGroup
			for i := range held {
				callers.Go(func() { held[i] = s.hold(t, c, req) })
			}
			callers.Wait()
			if n := c.Stats().Entries; n != 0 {
				t.Fatalf("%d entries are kept", n)
			}
			for i := range held { // each has its own read if reads are not shared
				held[i].Secret.Release()
			}
			all := make([]int, len(s.bufs))
			for i := range all {
				all[i] = i
			}
			s.expectWiped(t, all...)
		})
	}
}

// A shared read that is not kept remains complete for its slowest reader.
func TestNotKeptIsWholeForAll(t *testing.T) {
	bubble(t, Config{MaxBytes: 64 << 10}, func(t *testing.T, c *Cache, s *watchedStore) {
		s.delay, s.size = time.Second, 10<<10
		held := make(chan Result, 8)
		for range cap(held) {
			go func() { held <- s.hold(t, c, want("a")) }()
		}
		time.Sleep(time.Second)
		for n := range cap(held) {
			s.expectWiped(t)
			res := <-held
			if v, err := res.Secret.Select(""); err != nil || v.Reveal() != text("a", 10<<10) {
				t.Errorf("reader %d: %v", n, err)
			}
			res.Secret.Release()
		}
		s.expectWiped(t, 0)
	})
}

// A read is wiped if all its callers have given up, it was returned with an error, it has
// expired, or it is older than the cached value.
func TestWipedWhenNobodyWantsIt(t *testing.T) {
	tiny := func(t *testing.T, c *Cache, s *watchedStore, req Request) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		res, err := c.Get(ctx, req, s.loader(req.Key))
		checkError(t, res, err, secret.ReasonStoreUnavailable)
	}
	bubbleRun(t, "given up, not kept", Config{}, func(t *testing.T, c *Cache, s *watchedStore) {
		s.delay = 2 * time.Second
		tiny(t, c, s, Request{Key: key("a")})
		time.Sleep(2 * time.Second)
		s.expectWiped(t, 0)
	})
	bubbleRun(t, "given up, kept", Config{}, func(t *testing.T, c *Cache, s *watchedStore) {
		s.delay = 2 * time.Second
		tiny(t, c, s, want("a"))
		time.Sleep(2 * time.Second)
		s.expectWiped(t)
		time.Sleep(time.Minute)
		s.expectWiped(t, 0)
	})
	bubbleRun(t, "with an error", Config{}, func(t *testing.T, c *Cache, s *watchedStore) {
		s.fail = errors.New("fault")
		res, err := c.Get(t.Context(), want("a"), s.loader(key("a")))
		checkError(t, res, err, secret.ReasonInternal)
		s.expectWiped(t, 0)
	})
	bubbleRun(t, "expired", Config{}, func(t *testing.T, c *Cache, s *watchedStore) {
		s.expires = -time.Second
		res, err := c.Get(t.Context(), want("a"), s.loader(key("a")))
		checkError(t, res, err, secret.ReasonSecretExpired)
		s.expectWiped(t, 0)
	})
	bubbleRun(t, "an older read", Config{}, func(t *testing.T, c *Cache, s *watchedStore) {
		began := time.Now()
		time.Sleep(10 * time.Second)
		s.ask(t, c, want("a"))
		time.Sleep(10 * time.Second)
		old := []byte("an older value")
		res, err := c.Get(t.Context(), want("a").noOlderThan(0), func(context.Context) (*secret.Secret, error) {
			return secret.New("old", began, time.Time{}, old), nil
		})
		checkError(t, res, err, secret.ReasonInternal)
		synctest.Wait()
		if bytes.Count(old, []byte{0}) != len(old) {
			t.Error("the older read is not wiped")
		}
		s.expectWiped(t)
	})
}
