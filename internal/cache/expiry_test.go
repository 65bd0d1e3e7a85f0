package cache

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// Each entry expires at its time, whether entries are added or removed in any order, and
// no expired entry remains.
func TestLivesEndInTime(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			began := time.Now()
			l := &expiryQueue{began: began, expired: func(*entry) {}}
			due := make(map[*entry]time.Duration)
			check := func() {
				t.Helper()
				synctest.Wait()
				now := time.Since(began)
				going := 0
				for e, at := range due {
					if at > now {
						going++
					}
					known := l.has(e)
					if alive := e.secret.Retain(); alive != (at > now) || alive != known {
						t.Errorf("%v before its end: alive %v, known %v", at-now, alive, known)
					} else if alive {
						e.secret.Release()
					}
				}
				l.mu.Lock()
				defer l.mu.Unlock()
				if len(l.heap) != going {
					t.Errorf("%d are in the queue, %d go on", len(l.heap), going)
				}
			}
			for range 200 {
				switch rnd.IntN(3) {
				case 0:
					e := &entry{secret: secret.New("", began, time.Time{}, nil)}
					keep := upTo(rnd, time.Minute)
					due[e] = time.Since(began) + keep
					l.add(e, keep)
					e.secret.Release() // the reference of the load
				case 1:
					for e := range due { // an arbitrary entry
						l.remove(e)
						due[e] = min(due[e], time.Since(began))
						break
					}
				case 2:
					time.Sleep(upTo(rnd, 3*time.Second))
				}
				check()
			}
			time.Sleep(time.Minute)
			check()
			l.stop()
		})
	}
}

func TestLifeForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Hour)
		l := &expiryQueue{began: time.Now(), expired: func(*entry) {}}
		time.Sleep(time.Hour)
		e := &entry{secret: secret.New("", time.Now(), time.Time{}, nil)}
		l.add(e, math.MaxInt64)
		time.Sleep(24 * time.Hour)
		if !l.has(e) {
			t.Error("it has ended")
		}
		l.remove(e)
		l.stop()
	})
}

// A removed entry does not stay in memory until it would have expired.
func TestNothingStaysForItsEnd(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, c *Cache, s *watchedStore) {
		for i := range 10 {
			s.ask(t, c, want(fmt.Sprint(i)))
		}
		k := key("3")
		c.drop(c.hash(&k))
		time.Sleep(10 * time.Second)
		s.ask(t, c, want("4").noOlderThan(0))
		if n := len(c.expiry.heap); n != 9 {
			t.Errorf("%d entries are waited for, want 9", n)
		}
		for _, e := range c.expiry.heap[:cap(c.expiry.heap)][9:] {
			if e != nil {
				t.Error("an entry is kept behind the queue")
			}
		}
	})
}

// An entry that expires while its key is being read does not remain in ristretto, however
// the read ends.
func TestEndsDuringALoad(t *testing.T) {
	for name, fail := range map[string]error{
		"read":        nil,
		"outage":      secret.Errorf(secret.ReasonStoreUnavailable, "down"),
		"not allowed": secret.Errorf(secret.ReasonSecretNotFound, "no"),
	} {
		bubbleRun(t, name, Config{RefreshAhead: -1}, func(t *testing.T, c *Cache, s *watchedStore) {
			s.ask(t, c, want("a"))
			time.Sleep(55 * time.Second)
			req := want("a").noOlderThan(0)
			res, err := c.Get(t.Context(), req, func(ctx context.Context) (*secret.Secret, error) {
				time.Sleep(9 * time.Second)
				if fail != nil {
					return nil, fail
				}
				return s.loader(req.Key)(ctx)
			})
			if (err != nil) != (fail != nil) {
				t.Fatal(err)
			}
			res.Secret.Release()
			synctest.Wait()
			want := int64(1)
			if fail != nil {
				want = 0
			}
			if st := c.Stats(); st.Entries != want || (st.Bytes == 0) != (want == 0) {
				t.Errorf("%d entries of %d bytes, want %d", st.Entries, st.Bytes, want)
			}
		})
	}
}
