package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dgraph-io/ristretto/v2"

	"github.com/secretbroker/secretbroker/internal/secret"
)

func TestCallersShareOneLoad(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, c *Cache, s *fakeStore) {
		s.delay = time.Second
		var sources [4]atomic.Int64
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond / 2)
				res, err := c.get(t.Context(), s, want("a"))
				if err != nil {
					t.Error(err)
					return
				}
				sources[res.Source].Add(1)
			})
		}
		wg.Wait()
		expectLoads(t, s, 1)
		if m, n := sources[Miss].Load(), sources[Shared].Load(); m != 1 || n != 999 {
			t.Errorf("%d misses and %d shared", m, n)
		}
	})
}

// Cancelling one caller affects neither the other callers nor the load.
func TestCancellationIsTheCallersOwn(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, c *Cache, s *fakeStore) {
		s.delay = 4 * time.Second
		first, cancel := context.WithCancel(t.Context())
		second, cancelSecond := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancelSecond()
		var wg sync.WaitGroup
		wg.Go(func() {
			res, err := c.get(first, s, want("a"))
			if e := checkError(t, res, err, secret.ReasonStoreUnavailable); !errors.Is(e, context.Canceled) {
				t.Errorf("not a cancellation: %v", e)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			began := time.Now()
			res, err := c.get(second, s, want("a"))
			if e := checkError(t, res, err, secret.ReasonStoreUnavailable); !errors.Is(e, context.DeadlineExceeded) {
				t.Errorf("not a deadline: %v", e)
			}
			if d := time.Since(began); d != 2*time.Second {
				t.Errorf("gave up after %v", d)
			}
		})
		wg.Go(func() {
			expect(t, c, s, want("a"), 1, Shared)
		})
		time.Sleep(time.Second)
		cancel()
		wg.Wait()
		expectLoads(t, s, 1)
		expect(t, c, s, want("a"), 1, Hit)
	})
}

func TestEndedCallStartsNoLoad(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, c *Cache, s *fakeStore) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		res, err := c.get(ctx, s, want("a"))
		checkError(t, res, err, secret.ReasonStoreUnavailable)
		expectLoads(t, s, 0)
	})
}

// A load inherits nothing from a caller: neither its deadline nor its values.
func TestLoadInheritsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, Config{LoadTimeout: 3 * time.Second})
		type mine struct{}
		ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), mine{}, "caller"), time.Hour)
		defer cancel()
		_, err := c.Get(ctx, want("a"), func(ctx context.Context) (*secret.Secret, error) {
			if ctx.Value(mine{}) != nil {
				t.Error("the load sees a value of the caller's context")
			}
			if end, ok := ctx.Deadline(); !ok || time.Until(end) != 3*time.Second {
				t.Errorf("the load's deadline is %v, %v", end, ok)
			}
			return secret.New("1", time.Now(), time.Time{}, nil), nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestLoadTimeout(t *testing.T) {
	for name, hang := range map[string]func(ctx context.Context) error{
		"the context's error": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		"wrapped":             func(ctx context.Context) error { <-ctx.Done(); return fmt.Errorf("reading: %w", ctx.Err()) },
		"of its own":          func(ctx context.Context) error { <-ctx.Done(); return errors.New("net: i/o timeout") },
		"sooner":              func(context.Context) error { return context.DeadlineExceeded },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCache(t, Config{})
				res, err := c.Get(t.Context(), want("a"), func(ctx context.Context) (*secret.Secret, error) { return nil, hang(ctx) })
				checkError(t, res, err, secret.ReasonStoreUnavailable)
			})
		})
	}
}

// A load that breaks in any way returns an error to all waiting callers and affects
// nothing else. The log does not show the value of a panic.
func TestBrokenLoads(t *testing.T) {
	for name, load := range map[string]Loader{
		"panics with a text": func(context.Context) (*secret.Secret, error) { panic("hunter2") },
		"panics with an error": func(context.Context) (*secret.Secret, error) {
			panic(fmt.Errorf("no idea what to do with %q", "hunter2"))
		},
		"exits":           func(context.Context) (*secret.Secret, error) { runtime.Goexit(); return nil, nil },
		"returns nothing": func(context.Context) (*secret.Secret, error) { return nil, nil },
		"returns both": func(context.Context) (*secret.Secret, error) {
			return secret.New("1", time.Now(), time.Time{}, nil), errors.New("and an error")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				c, s := newCache(t, Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}), newFakeStore()
				slow := func(ctx context.Context) (*secret.Secret, error) {
					time.Sleep(time.Second)
					return load(ctx)
				}
				var wg sync.WaitGroup
				for range 10 {
					wg.Go(func() {
						res, err := c.Get(t.Context(), want("a"), slow)
						e := checkError(t, res, err, secret.ReasonInternal)
						if strings.Contains(e.Error(), "hunter2") {
							t.Error("the error shows what the panic carried")
						}
					})
				}
				wg.Wait()
				if strings.Contains(log.String(), "hunter2") {
					t.Error("the log shows what the panic carried")
				}
				if strings.HasPrefix(name, "panics") && !strings.Contains(log.String(), "flight_test.go") {
					t.Errorf("the log does not say where the panic was: %s", log.String())
				}
				time.Sleep(outageTTL)
				expect(t, c, s, want("a"), 1, Miss)
			})
		})
	}
}

func TestClose(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, c *Cache, s *fakeStore) {
		expect(t, c, s, want("kept"), 1, Miss)
		s.delay = 8 * time.Second
		began := time.Now()
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				res, err := c.get(t.Context(), s, want(fmt.Sprint(i%10)))
				checkError(t, res, err, secret.ReasonStoreUnavailable)
			})
		}
		wg.Go(func() { // waits for the next load
			time.Sleep(time.Millisecond)
			res, err := c.get(t.Context(), s, want("kept").noOlderThan(0))
			checkError(t, res, err, secret.ReasonStoreUnavailable)
		})
		time.Sleep(500 * time.Millisecond)
		c.Close()
		wg.Wait()
		if d := time.Since(began); d != 500*time.Millisecond {
			t.Errorf("calls ended %v after they began", d)
		}
		expectError(t, c, s, want("kept"), secret.ReasonStoreUnavailable)
		expectLoads(t, s, 11)
		if n := c.Stats().Entries; n != 0 {
			t.Errorf("%d entries are left", n)
		}
		c.Close()
	})
}

// Readers that continue while the cache closes get an answer or an error. This test looks
// for data races, so it needs threads instead of a bubble.
func TestCloseUnderReaders(t *testing.T) {
	for range 10 {
		c, s := newCache(t, Config{MinReadInterval: 1}), newFakeStore()
		// Every hit uses the state that Close removes.
		swapStore(t, c, func(cfg *ristretto.Config[uint64, *entry]) { cfg.BufferItems = 1 })
		var wg sync.WaitGroup
		started, closed := make(chan struct{}, 8), make(chan struct{})
		for i := range 8 {
			wg.Go(func() {
				for n := 0; ; n++ {
					req := want(fmt.Sprint(n % 7))
					if n%3 == i%3 {
						req = req.noOlderThan(0)
					}
					if res, err := c.get(t.Context(), s, req); err != nil {
						checkError(t, res, err, secret.ReasonStoreUnavailable)
					}
					if n == 200 {
						started <- struct{}{}
					}
					select {
					case <-closed:
						return
					default:
					}
				}
			})
		}
		<-started
		c.Close()
		close(closed)
		wg.Wait()
	}
}
