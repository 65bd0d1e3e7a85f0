package cache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// model is the oracle for the answers to one key: the times at which the secret was
// rotated, and the newest version that a completed call has returned.
type model struct {
	mu      sync.Mutex
	rotated []time.Time // rotated[v] is the time of version v+1
	newest  int
}

func (m *model) rotate(s *fakeStore) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.rotate()
	m.rotated = append(m.rotated, time.Now())
}

// versionBefore returns the version that every read begun at or after t must return.
func (m *model) versionBefore(t time.Time) int {
	v := 0
	for v < len(m.rotated) && m.rotated[v].Before(t) {
		v++
	}
	return v
}

// check makes one call and compares it with the model: no answer may be older than its
// TTL, older than its MaxAge, or older than an answer that another call returned before
// this call began.
func (m *model) check(t *testing.T, req Request, get func() (Result, error)) {
	m.mu.Lock()
	floor := m.newest
	m.mu.Unlock()
	arrival := time.Now()
	res, err := get()
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		var e *secret.Error
		if !errors.As(err, &e) || (e.Reason != secret.ReasonStoreUnavailable && e.Reason != secret.ReasonOverloaded) {
			t.Errorf("Get: %v", err)
		}
		return
	}
	version, _ := strconv.Atoi(res.Secret.Version)
	age := arrival.Sub(res.Secret.FetchedAt)
	limit := req.TTL
	if res.Source == Stale {
		limit += req.MaxStale
	}
	switch {
	case age >= limit && res.Source == Hit, age > limit:
		t.Errorf("%v answer %v after its read, the limit is %v", res.Source, age, limit)
	case req.HasMaxAge && age > req.MaxAge:
		t.Errorf("%v answer %v after its read for a MaxAge of %v", res.Source, age, req.MaxAge)
	case version < m.versionBefore(res.Secret.FetchedAt):
		t.Errorf("%v answer of version %d that was not current at its read", res.Source, version)
	case req.HasMaxAge && version < m.versionBefore(arrival.Add(-req.MaxAge)):
		t.Errorf("%v answer of version %d for a MaxAge of %v, want %d", res.Source, version, req.MaxAge, m.versionBefore(arrival.Add(-req.MaxAge)))
	case version < floor:
		t.Errorf("%v answer of version %d after version %d had been returned", res.Source, version, floor)
	}
	m.newest = max(m.newest, version)
}

// TestModel rotates a secret that many callers read with random requirements, while its
// store fails at times and its entry is removed or evicted.
func TestModel(t *testing.T) {
	var all Stats
	for seed := range uint64(24) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := runModel(t, rand.New(rand.NewPCG(seed, 0)))
				all.Hits += st.Hits
				all.Shared += st.Shared
				all.StaleAnswers += st.StaleAnswers
				all.NegativeHits += st.NegativeHits
				all.Paced += st.Paced
				all.Refreshes += st.Refreshes
				all.Evictions += st.Evictions
			})
		})
	}
	if all.Hits == 0 || all.Shared == 0 || all.StaleAnswers == 0 || all.NegativeHits == 0 || all.Paced == 0 ||
		all.Refreshes == 0 || all.Evictions == 0 {
		t.Errorf("the runs were too tame: %+v", all)
	}
}

// upTo returns a positive duration of at most d.
func upTo(rnd *rand.Rand, d time.Duration) time.Duration {
	return time.Duration(rnd.Int64N(int64(d))) + 1
}

func runModel(t *testing.T, rnd *rand.Rand) Stats {
	const length = 60 * time.Second
	c, s := newCache(t, Config{MaxBytes: 32 << 10, MinReadInterval: time.Duration(rnd.IntN(2000)) * time.Millisecond}), newFakeStore()
	s.version = 0
	var m model
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	var wg sync.WaitGroup
	every := func(most time.Duration, f func(rnd *rand.Rand)) {
		rnd := rand.New(rand.NewPCG(rnd.Uint64(), 0))
		wg.Go(func() {
			for sleep(ctx, upTo(rnd, most)) == nil {
				f(rnd)
			}
		})
	}
	every(3*time.Second, func(*rand.Rand) { m.rotate(s) })
	every(5*time.Second, func(rnd *rand.Rand) {
		s.set(func(s *fakeStore) {
			s.delay = upTo(rnd, 3*time.Second)
			s.fail = nil
			if rnd.IntN(4) == 0 {
				s.fail = secret.Errorf(secret.ReasonStoreUnavailable, "down")
			}
		})
	})
	k := key("a")
	// Some runs have few enough calls for entries to grow old.
	forced, readers := []int{0, 2, 50}[rnd.IntN(3)], []int{4, 40}[rnd.IntN(2)]
	drops := []time.Duration{4 * time.Second, 5 * length}[rnd.IntN(2)]
	pressure := []time.Duration{100 * time.Millisecond, 5 * length}[rnd.IntN(2)]
	every(drops, func(*rand.Rand) { c.drop(c.hash(&k)) })
	other := newFakeStore()
	other.size = 1000
	every(pressure, func(rnd *rand.Rand) {
		if _, err := c.get(ctx, other, want(fmt.Sprint("other", rnd.IntN(100)))); err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	})
	ages := []time.Duration{0, 0, 0, 100 * time.Millisecond, time.Second, 5 * time.Second, time.Minute}
	for range readers {
		every(2*time.Second, func(rnd *rand.Rand) {
			req := Request{Key: k, TTL: 10 * time.Second}
			if rnd.IntN(100) < forced {
				req = req.noOlderThan(ages[rnd.IntN(len(ages))])
			}
			if rnd.IntN(3) == 0 {
				req.TTL = 4 * time.Second
			}
			if rnd.IntN(2) == 0 {
				req = req.orStale(5 * time.Second)
			}
			ctx := ctx
			if rnd.IntN(4) == 0 {
				short, cancel := context.WithTimeout(ctx, upTo(rnd, 4*time.Second))
				defer cancel()
				ctx = short
			}
			m.check(t, req, func() (Result, error) { return c.get(ctx, s, req) })
		})
	}
	wg.Wait()
	if s.overlapped() {
		t.Error("two loads of one key at a time")
	}
	return c.Stats()
}

// The same guarantee with real threads and clocks: a call with MaxAge zero returns the
// newest version whose rotation was complete before the call began, and no call returns an
// older version than one returned before the call began.
func TestReadNowIsLinearizable(t *testing.T) {
	c := newCache(t, Config{MinReadInterval: 1, MaxBytes: 16 << 10})
	var version, newest atomic.Int64
	load := func(context.Context) (*secret.Secret, error) {
		began := time.Now()
		return secret.New(strconv.FormatInt(version.Load(), 10), began, time.Time{}, nil), nil
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 0))
			for n := range 2000 {
				req := want("a")
				floor := newest.Load()
				switch rnd.IntN(5) {
				case 0, 1:
					req = req.noOlderThan(0)
					floor = max(floor, version.Load())
				case 2:
					version.Add(1)
				case 3: // other entries evict it
					_, _ = c.Get(t.Context(), want(fmt.Sprint(n%50)), load)
				}
				res, err := c.Get(t.Context(), req, load)
				if err != nil {
					t.Error(err)
					return
				}
				got, _ := strconv.ParseInt(res.Secret.Version, 10, 64)
				if got < floor {
					t.Errorf("%v answer of version %d, want at least %d", res.Source, got, floor)
				}
				for old := newest.Load(); old < got && !newest.CompareAndSwap(old, got); old = newest.Load() {
				}
			}
		})
	}
	wg.Wait()
}
