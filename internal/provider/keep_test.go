package provider_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// kept is a Provider that counts the calls.
type kept struct {
	provider.Provider
	keeps *atomic.Int32
}

func (k kept) Keep() { k.keeps.Add(1) }

// A credential that must be kept alive is renewed before the first read, in each
// revision, until the integration is removed.
func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s stores
		var keeps atomic.Int32
		set := s.set(t, func(c *provider.SetConfig) {
			open := c.Openers[kind]
			c.Openers = map[secret.Kind]provider.Opener{kind: func(ctx context.Context, in *integration.Integration) (provider.Provider, error) {
				p, err := open(ctx, in)
				return kept{p, &keeps}, err
			}}
			c.Keeps = func(in *integration.Integration) bool { return in.ID == "own-token" }
		})
		is := func(what string, wantKeeps int32, wantOpen int) {
			t.Helper()
			synctest.Wait()
			if _, open := s.opens(); keeps.Load() != wantKeeps || open != wantOpen {
				t.Errorf("%s: told %d times, %d open; want %d and %d", what, keeps.Load(), open, wantKeeps, wantOpen)
			}
		}
		set.Keep(of("another", "1"))
		is("another", 0, 0)
		set.Keep(of("own-token", "1"))
		is("from the start", 1, 1)
		if _, err := set.Fetch(t.Context(), of("own-token", "1"), ref("v", "a")); err != nil {
			t.Error(err)
		}
		is("read", 1, 1)
		set.Supersede("own-token", "2")
		set.Keep(of("own-token", "2"))
		is("changed", 2, 1)
		set.Remove("own-token")
		is("removed", 2, 0)
	})
}
