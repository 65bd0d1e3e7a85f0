package provider_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func get(t *testing.T, set *provider.Set, id, revision string) {
	t.Helper()
	sec, err := set.Fetch(t.Context(), of(id, revision), ref("v", "a"))
	if err != nil || sec.Version != id+" "+revision {
		t.Fatalf("read %v, %v, want it through %s %s", sec, err, id, revision)
	}
}

func checkOpens(t *testing.T, s *stores, what string, ever, now int) {
	t.Helper()
	if e, n := s.opens(); e != ever || n != now {
		t.Errorf("%s: opened %d, %d of them open, want %d and %d: %v", what, e, n, ever, now, s.opened)
	}
}

// Calls with the old revision do not close the new one's Provider, and the Providers
// that they open are closed.
func TestSupersede(t *testing.T) {
	var s stores
	set := s.set(t, nil)
	get(t, set, "i", "1")
	get(t, set, "i", "2") // before the notice
	checkOpens(t, &s, "ahead of the notice", 2, 1)
	set.Supersede("i", "2")
	checkOpens(t, &s, "superseded while idle", 2, 0)
	for range 5 {
		get(t, set, "i", "2")
	}
	checkOpens(t, &s, "current", 3, 1)
	for range 3 {
		get(t, set, "i", "1")
		get(t, set, "i", "2")
	}
	checkOpens(t, &s, "interleaved", 6, 1)
	set.Supersede("i", "1") // back to the first revision
	get(t, set, "i", "1")
	get(t, set, "i", "1")
	checkOpens(t, &s, "back again", 7, 1)
}

// A handle that is in use when its revision becomes current stays open.
func TestSupersedeAdopts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s stores
		set := s.set(t, nil)
		get(t, set, "i", "1")
		s.fetch = func(context.Context, secret.Ref) error { time.Sleep(time.Second); return nil }
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { get(t, set, "i", "2") })
		}
		synctest.Wait()
		checkOpens(t, &s, "both in use", 2, 2)
		set.Supersede("i", "2")
		wg.Wait()
		get(t, set, "i", "2")
		checkOpens(t, &s, "adopted", 2, 1)
	})
}

func TestRemove(t *testing.T) {
	var s stores
	set := s.set(t, nil)
	get(t, set, "i", "1")
	set.Remove("i")
	checkOpens(t, &s, "removed", 1, 0)
	get(t, set, "i", "1")
	get(t, set, "i", "1")
	checkOpens(t, &s, "late", 3, 0)
	set.Remove("never read")
	get(t, set, "never read", "1")
	checkOpens(t, &s, "removed before its first read", 4, 0)
	set.Supersede("i", "1")
	get(t, set, "i", "1")
	get(t, set, "i", "1")
	checkOpens(t, &s, "made anew", 5, 1)

	for n := range 4000 {
		set.Remove(fmt.Sprint("gone", n))
	}
	get(t, set, "gone0", "1")
	checkOpens(t, &s, "late after many removals", 6, 1)
}

// TestOpeningHangs: a credential file that blocks delays only its own integration,
// and each caller only until the caller's context ends.
func TestOpeningHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s stores
		release := make(chan struct{})
		openings := 0
		set := s.set(t, func(c *provider.SetConfig) {
			c.Openers = map[secret.Kind]provider.Opener{secret.KindAzureKeyVault: func(ctx context.Context, in *integration.Integration) (provider.Provider, error) {
				if in.ID == "hanging" {
					openings++
					<-release
				}
				return s.opener(ctx, in)
			}}
		})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				_, err := set.Fetch(ctx, of("hanging", "1"), ref("v", "a"))
				if secret.AsError(err).Reason != secret.ReasonStoreUnavailable || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v", err)
				}
			})
		}
		synctest.Wait()
		began := time.Now()
		get(t, set, "other", "1")
		set.Supersede("other", "2")
		set.Remove("other")
		set.Supersede("hanging", "2")
		if time.Since(began) != 0 {
			t.Error("others were held up")
		}
		wg.Wait()
		if openings != 1 {
			t.Errorf("opened %d times at once", openings)
		}
		close(release)
		synctest.Wait()
		checkOpens(t, &s, "superseded meanwhile, and nobody waits", 2, 0)
		get(t, set, "hanging", "2")
	})
}

// Close does not wait for ever for an operation that cannot be cancelled.
func TestCloseWhileOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var s stores
		set := provider.NewSet(provider.SetConfig{Openers: map[secret.Kind]provider.Opener{
			secret.KindAzureKeyVault: func(ctx context.Context, in *integration.Integration) (provider.Provider, error) {
				<-ctx.Done() // receives the cancellation
				<-release
				return s.opener(ctx, in)
			},
		}})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := set.Fetch(ctx, of("i", "1"), ref("v", "a"))
		fails(t, err, secret.ReasonStoreUnavailable)
		if err := set.Close(); err == nil {
			t.Error("nothing is said of an opening that goes on")
		}
		close(release)
		synctest.Wait()
		checkOpens(t, &s, "after Close", 1, 0)
	})
}

// A failed opening is an error for all waiting callers, and is not cached.
func TestFailedOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s stores
		var openings int
		set := s.set(t, func(c *provider.SetConfig) {
			c.Openers = map[secret.Kind]provider.Opener{secret.KindAzureKeyVault: func(ctx context.Context, in *integration.Integration) (provider.Provider, error) {
				openings++
				time.Sleep(time.Second)
				switch openings {
				case 1:
					return nil, secret.Errorf(secret.ReasonStoreAuthenticationFailed, "/etc/secretbroker/password is empty")
				case 2:
					panic("hunter2")
				}
				return s.opener(ctx, in)
			}}
		})
		for _, want := range []secret.Reason{secret.ReasonStoreAuthenticationFailed, secret.ReasonInternal} {
			var wg sync.WaitGroup
			for range 5 {
				wg.Go(func() {
					_, err := set.Fetch(t.Context(), of("i", "1"), ref("v", "a"))
					if e := secret.AsError(err); e.Reason != want || strings.Contains(e.Message, "/etc") || strings.Contains(e.Error(), "hunter2") {
						t.Errorf("got %v, want %s", err, want)
					}
				})
			}
			wg.Wait()
		}
		get(t, set, "i", "1")
		get(t, set, "i", "1")
		if openings != 3 {
			t.Errorf("opened %d times", openings)
		}
		set.Remove("i")
	})
}
