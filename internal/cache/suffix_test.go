package cache

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// arnStore has one secret, which can be read by its name and by the suffix of its ARN.
type arnStore struct {
	mu      sync.Mutex
	suffix  string // "" if the secret does not exist
	version int
	reads   int
	late    []time.Duration // how long the next reads take after their answer is determined
}

func (s *arnStore) set(change func(*arnStore)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *arnStore) load(suffix string) Loader {
	return func(ctx context.Context) (*secret.Secret, error) {
		began := time.Now()
		s.mu.Lock()
		s.reads++
		current, version := s.suffix, s.version
		var delay time.Duration
		if len(s.late) > 0 {
			delay, s.late = s.late[0], s.late[1:]
		}
		s.mu.Unlock()
		if err := sleep(ctx, delay); err != nil {
			return nil, err
		}
		if current == "" || suffix != "" && suffix != current {
			return nil, secret.Errorf(secret.ReasonSecretNotFound, "no such secret")
		}
		return secret.New(strconv.Itoa(version), began, time.Time{}, []byte(current)).WithSuffix(current), nil
	}
}

func (c *Cache) bySuffix(ctx context.Context, s *arnStore, suffix string, change ...func(*Request)) (version string, source Source, err error) {
	req := want("db")
	req.Suffix = suffix
	for _, f := range change {
		f(&req)
	}
	got, err := c.Get(ctx, req, s.load(suffix))
	if err != nil {
		return "", 0, err
	}
	defer got.Secret.Release()
	if !got.Secret.HasSuffix(suffix) {
		return "", 0, fmt.Errorf("asked for %s, and got another secret", suffix)
	}
	return got.Secret.Version, got.Source, nil
}

func forced(r *Request) { r.MaxAge, r.HasMaxAge = 0, true }

const oldSuffix, newSuffix = "AbCdEf", "GhIjKl"

// A secret has one entry, by whatever name it is read.
func TestSuffixSharesTheEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, Config{RefreshAhead: -1})
		s := &arnStore{suffix: oldSuffix, version: 1}
		is := func(suffix, version string, source Source, change ...func(*Request)) {
			t.Helper()
			if v, from, err := c.bySuffix(t.Context(), s, suffix, change...); v != version || from != source || err != nil {
				t.Errorf("by %q: version %s, %v, %v; want version %s, %v", suffix, v, from, err, version, source)
			}
		}
		missing := func(suffix string) {
			t.Helper()
			if _, _, err := c.bySuffix(t.Context(), s, suffix); secret.AsError(err).Reason != secret.ReasonSecretNotFound {
				t.Errorf("by %q: %v", suffix, err)
			}
		}
		is("", "1", Miss)
		is(oldSuffix, "1", Hit)
		missing(newSuffix)
		is("", "1", Hit)

		time.Sleep(2 * time.Second)
		s.set(func(s *arnStore) { s.version = 2 })
		is("", "1", Hit)
		is(oldSuffix, "2", Miss, forced)
		is("", "2", Hit)

		// It is deleted and created again.
		time.Sleep(2 * time.Second)
		s.set(func(s *arnStore) { s.suffix, s.version = newSuffix, 3 })
		is("", "3", Miss, forced)
		is(newSuffix, "3", Hit)
		missing(oldSuffix)
		is("", "3", Hit) // the refusal of the old suffix does not remove it
		is(newSuffix, "3", Hit)

		// It is deleted: a refusal by one name removes the value for all.
		time.Sleep(10 * time.Second)
		s.set(func(s *arnStore) { s.suffix = "" })
		is("", "3", Hit)
		_, _, err := c.bySuffix(t.Context(), s, newSuffix, forced)
		if secret.AsError(err).Reason != secret.ReasonSecretNotFound {
			t.Errorf("a deleted secret: %v", err)
		}
		missing("")
		if n := c.Stats().Entries; n != 0 {
			t.Errorf("%d entries", n)
		}
	})
}

// A name that ends like an ARN is another secret than the ARN's.
func TestSuffixIsNoPartOfTheName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, Config{})
		s := &arnStore{suffix: oldSuffix, version: 1}
		if _, _, err := c.bySuffix(t.Context(), s, oldSuffix); err != nil {
			t.Fatal(err)
		}
		req := want("db-" + oldSuffix)
		if _, ok := c.Hit(&req); ok {
			t.Error("the entry of db answers a request for " + req.Key.Name)
		}
	})
}

// Of two reads by different names that overlap, the one that began later remains, whichever
// ends first, and both calls get it or their own secret.
func TestSuffixesReadTogether(t *testing.T) {
	for _, tt := range []struct {
		name             string
		first, second    string // the suffixes of the requests
		recreated        bool   // between the reads
		gotFirst, remain string
	}{
		{"name, then ARN", "", oldSuffix, false, "2", "2"},
		{"ARN, then name", oldSuffix, "", false, "2", "2"},
		{"old ARN, then name of the next secret", oldSuffix, "", true, "1", "2"},
		{"name, then ARN of the next secret", "", newSuffix, true, "2", "2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCache(t, Config{RefreshAhead: -1})
				s := &arnStore{suffix: oldSuffix, version: 1, late: []time.Duration{3 * time.Second, time.Second}}
				first := make(chan string)
				go func() {
					v, _, err := c.bySuffix(t.Context(), s, tt.first)
					if err != nil {
						t.Error(err)
					}
					first <- v
				}()
				time.Sleep(time.Second)
				s.set(func(s *arnStore) {
					if s.version = 2; tt.recreated {
						s.suffix = newSuffix
					}
				})
				if v, source, err := c.bySuffix(t.Context(), s, tt.second); v != "2" || source != Miss || err != nil {
					t.Errorf("the second: version %s, %v, %v", v, source, err)
				}
				if v := <-first; v != tt.gotFirst {
					t.Errorf("the first: version %s, want %s", v, tt.gotFirst)
				}
				if v, source, err := c.bySuffix(t.Context(), s, ""); v != tt.remain || source != Hit || err != nil {
					t.Errorf("afterwards: version %s, %v, %v", v, source, err)
				}
			})
		})
	}
}

// Rotations, deletions and calls by both names at the same time: an answer to a call that
// forces a read is not older than the call, and later calls by any name get nothing older.
func TestSuffixRaces(t *testing.T) {
	c := newCache(t, Config{MinReadInterval: time.Nanosecond, NegativeTTL: time.Nanosecond})
	s := &arnStore{suffix: oldSuffix, version: 1}
	done := make(chan struct{})
	var rotations, callers sync.WaitGroup
	rotations.Go(func() {
		for n := 2; ; n++ {
			select {
			case <-done:
				return
			default:
			}
			s.set(func(s *arnStore) {
				if s.version = n; n%50 == 0 {
					s.suffix = map[string]string{oldSuffix: newSuffix, newSuffix: oldSuffix}[s.suffix]
				}
			})
			time.Sleep(50 * time.Microsecond)
		}
	})
	suffixes := []string{"", oldSuffix, newSuffix}
	number := func(text string) int { n, _ := strconv.Atoi(text); return n }
	for range 8 {
		callers.Go(func() {
			for range 1000 {
				s.mu.Lock()
				least := s.version
				s.mu.Unlock()
				v, _, err := c.bySuffix(context.Background(), s, suffixes[rand.IntN(3)], forced)
				if err != nil {
					continue // the other secret of that name exists at present
				}
				if number(v) < least {
					t.Errorf("forced: version %s, which is older than %d", v, least)
				}
				if again, _, err := c.bySuffix(context.Background(), s, ""); err == nil && number(again) < number(v) {
					t.Errorf("version %s after version %s", again, v)
				}
			}
		})
	}
	callers.Wait()
	close(done)
	rotations.Wait()
}
