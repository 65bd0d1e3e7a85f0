package cache

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/secretbroker/secretbroker/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeStore is a secret store with one secret per Key, whose version is a counter.
type fakeStore struct {
	mu      sync.Mutex
	delay   time.Duration // duration of a read, which determines the version halfway
	size    int           // of a value, with padding
	expires time.Time
	fail    error
	version int
	starts  []time.Time
	running map[Key]int
	overlap bool // two concurrent reads of one key have occurred
}

func newFakeStore() *fakeStore { return &fakeStore{version: 1, running: make(map[Key]int)} }

func (s *fakeStore) loader(k Key) Loader {
	return func(ctx context.Context) (*secret.Secret, error) {
		s.mu.Lock()
		began := time.Now()
		s.starts = append(s.starts, began)
		s.running[k]++
		s.overlap = s.overlap || s.running[k] > 1
		half := s.delay / 2
		s.mu.Unlock()
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.running[k]--
		}()

		if err := sleep(ctx, half); err != nil {
			return nil, err
		}
		s.mu.Lock()
		version, fail := s.version, s.fail
		expires, size := s.expires, s.size
		s.mu.Unlock()
		if err := sleep(ctx, half); err != nil {
			return nil, err
		}
		if fail != nil {
			return nil, fail
		}
		value := fmt.Sprintf("%s/%d", k.Name, version)
		value += strings.Repeat("x", max(0, size-len(value)))
		return secret.New(strconv.Itoa(version), began, expires, []byte(value)), nil
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *fakeStore) set(change func(*fakeStore)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *fakeStore) rotate() { s.set(func(s *fakeStore) { s.version++ }) }

func (s *fakeStore) failWith(err error) { s.set(func(s *fakeStore) { s.fail = err }) }

func (s *fakeStore) loads() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.starts)
}

func (s *fakeStore) overlapped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.overlap
}

func key(name string) Key {
	return Key{Integration: "acme", Revision: "r1", Store: "https://acme.vault.azure.net", Name: name}
}

// want returns a request for a key with a TTL of one minute.
func want(name string) Request { return Request{Key: key(name), TTL: time.Minute} }

func (r Request) noOlderThan(d time.Duration) Request {
	r.MaxAge, r.HasMaxAge = d, true
	return r
}

func (r Request) orStale(d time.Duration) Request {
	r.MaxStale = d
	return r
}

func newCache(t testing.TB, cfg Config) *Cache {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// simulated runs a test in a synctest bubble with a new cache and store.
func simulated(t *testing.T, cfg Config, f func(t *testing.T, c *Cache, s *fakeStore)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newCache(t, cfg), newFakeStore()) })
}

// simulatedRun runs simulated as a subtest.
func simulatedRun(t *testing.T, name string, cfg Config, f func(t *testing.T, c *Cache, s *fakeStore)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { simulated(t, cfg, f) })
}

func (c *Cache) get(ctx context.Context, s *fakeStore, req Request) (Result, error) {
	return c.Get(ctx, req, s.loader(req.Key))
}

func (c *Cache) getWithin(t *testing.T, d time.Duration, s *fakeStore, req Request) (Result, error) {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	return c.get(ctx, s, req)
}

// expect makes a call and checks the version and the source of its answer. Like all
// helpers here, it may be called from any goroutine of a test.
func expect(t *testing.T, c *Cache, s *fakeStore, req Request, version int, source Source) Result {
	t.Helper()
	res, err := c.get(t.Context(), s, req)
	switch {
	case err != nil:
		t.Errorf("Get: %v", err)
	case res.Secret.Version != strconv.Itoa(version) || res.Source != source:
		t.Errorf("Get = version %s, %v; want version %d, %v", res.Secret.Version, res.Source, version, source)
	}
	return res
}

// expectError makes a call and checks the reason of its failure.
func expectError(t *testing.T, c *Cache, s *fakeStore, req Request, reason secret.Reason) *secret.Error {
	t.Helper()
	res, err := c.get(t.Context(), s, req)
	return checkError(t, res, err, reason)
}

// checkError checks the error and returns it; the result is never nil.
func checkError(t *testing.T, res Result, err error, reason secret.Reason) *secret.Error {
	t.Helper()
	var e *secret.Error
	if !errors.As(err, &e) || e.Reason != reason {
		t.Errorf("Get: error %v, want %s", err, reason)
		return &secret.Error{}
	}
	if res != (Result{}) {
		t.Errorf("Get: a result together with the error: %+v", res)
	}
	return e
}

func expectLoads(t *testing.T, s *fakeStore, n int) {
	t.Helper()
	if got := s.loads(); got != n {
		t.Errorf("%d loads, want %d", got, n)
	}
}
