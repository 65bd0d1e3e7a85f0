package cache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// payer is an Account that shares outcomes with one other Account.
type payer struct {
	name   string
	shares string // the name of the other Account

	mu     sync.Mutex
	joined []string
}

func (p *payer) Join(other any) bool {
	name := other.(*payer).name
	p.mu.Lock()
	defer p.mu.Unlock()
	p.joined = append(p.joined, name)
	return name == p.name || name == p.shares
}

func errOwn() error {
	return secret.Errorf(secret.ReasonOverloaded, "too much").WithCause(fmt.Errorf("of this caller: %w", ErrOwn))
}

// A load that fails with ErrOwn fails only for its own Account: another waiting caller
// starts its own load, and the failure is not remembered.
func TestOwnFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, Config{})
		s := newFakeStore()
		greedy := &payer{name: "greedy"}
		loads := 0
		failing := func(context.Context) (*secret.Secret, error) {
			loads++
			time.Sleep(time.Second)
			return nil, errOwn()
		}
		get := func(account *payer, load Loader) (Result, error) {
			req := want("a")
			req.Account = account
			return c.Get(t.Context(), req, load)
		}
		var wg sync.WaitGroup
		for range 2 { // the first starts the load, the second shares it and its failure
			wg.Go(func() {
				res, err := get(greedy, failing)
				checkError(t, res, err, secret.ReasonOverloaded)
			})
			synctest.Wait()
		}
		wg.Go(func() {
			res, err := get(&payer{name: "modest"}, s.loader(key("a")))
			if err != nil || res.Source != Miss {
				t.Errorf("%v, %v", res.Source, err)
			}
		})
		wg.Wait()
		if fmt.Sprint(greedy.joined) != "[greedy modest]" || loads != 1 {
			t.Errorf("joined by %v, %d loads", greedy.joined, loads)
		}
		expectLoads(t, s, 1)
	})
}

func TestOwnFailuresAreNotRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, Config{})
		s := newFakeStore()
		s.failWith(errOwn())
		expectError(t, c, s, want("a"), secret.ReasonOverloaded)
		s.failWith(nil)
		expect(t, c, s, want("a"), 1, Miss)
		// It does not erase the memory of an outage either.
		time.Sleep(2 * time.Minute)
		down := secret.Errorf(secret.ReasonStoreUnavailable, "down")
		s.failWith(down)
		if _, err := c.get(t.Context(), s, want("b")); !errors.Is(err, down) {
			t.Error(err)
		}
		last := func() *lastLoad {
			c.mu.Lock()
			defer c.mu.Unlock()
			k := key("b")
			return c.negative.get(c.hash(&k), &loadKey{Key: k}, time.Now())
		}
		before := last()
		s.failWith(errOwn())
		if _, err := c.get(t.Context(), s, want("b").noOlderThan(0)); err == nil || before == nil || last() != before {
			t.Errorf("%v; the outage is forgotten", err)
		}
	})
}

// An Account accepts every outcome of a load that it shares.
func TestSharedFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, Config{})
		loads := 0
		load := func(context.Context) (*secret.Secret, error) {
			loads++
			time.Sleep(time.Second)
			return nil, errOwn()
		}
		var wg sync.WaitGroup
		for _, account := range []*payer{{name: "one", shares: "other"}, {name: "other"}} {
			wg.Go(func() {
				req := want("a")
				req.Account = account
				res, err := c.Get(t.Context(), req, load)
				checkError(t, res, err, secret.ReasonOverloaded)
			})
			synctest.Wait()
		}
		wg.Wait()
		if loads != 1 {
			t.Errorf("%d loads", loads)
		}
	})
}
