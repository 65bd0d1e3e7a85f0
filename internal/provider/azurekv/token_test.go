package azurekv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/secretbroker/secretbroker/internal/provider/task"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// credentialFunc is a credential made of a func, which gets the number of the
// call, from 1.
type credentialFunc struct {
	mu    sync.Mutex
	calls int
	get   func(ctx context.Context, call int) (azcore.AccessToken, error)
}

func (c *credentialFunc) GetToken(ctx context.Context, _ policy.TokenRequestOptions) (azcore.AccessToken, error) {
	c.mu.Lock()
	c.calls++
	n := c.calls
	c.mu.Unlock()
	return c.get(ctx, n)
}

func (c *credentialFunc) called() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls
}

func newTestSource(cred azcore.TokenCredential) (*tokenSource, *task.Group) {
	tasks := task.NewGroup()
	a := &registry.Azure{TenantID: tenantID, Credential: registry.AzureCredential{Type: registry.AzureClientSecret}}
	return newTokenSource(Config{}.withDefaults(), slog.New(slog.DiscardHandler), a, cred, tasks), tasks
}

func hourToken(call int) azcore.AccessToken {
	return azcore.AccessToken{Token: fmt.Sprint("token-", call), ExpiresOn: time.Now().Add(time.Hour)}
}

var vaultScope = policy.TokenRequestOptions{Scopes: []string{"https://vault.azure.net/.default"}, TenantID: tenantID, EnableCAE: true}

func TestTokenIsSharedAndDetached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cred := &credentialFunc{get: func(ctx context.Context, call int) (azcore.AccessToken, error) {
			select {
			case <-time.After(5 * time.Second):
				return hourToken(call), nil
			case <-ctx.Done():
				return azcore.AccessToken{}, ctx.Err()
			}
		}}
		src, tasks := newTestSource(cred)
		began := time.Now()
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				ctx := t.Context()
				if i%2 == 0 { // the impatient, the first caller most likely among them
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, time.Second)
					defer cancel()
				}
				token, err := src.GetToken(src.mark(ctx), vaultScope)
				waited := time.Since(began)
				switch {
				case i%2 == 0 && (!errors.Is(err, context.DeadlineExceeded) || waited != time.Second):
					t.Errorf("impatient: %v after %v", err, waited)
				case i%2 == 1 && (err != nil || token.Token != "token-1" || waited != 5*time.Second):
					t.Errorf("patient: %v, %v after %v", token, err, waited)
				}
			})
		}
		wg.Wait()
		if cred.called() != 1 {
			t.Errorf("%d acquisitions, want 1", cred.called())
		}
		must(t, tasks.Stop(time.Second))
	})
}

func TestTokensForDifferentPurposesAreApart(t *testing.T) {
	cred := &credentialFunc{get: func(_ context.Context, call int) (azcore.AccessToken, error) { return hourToken(call), nil }}
	src, tasks := newTestSource(cred)
	other, claims := vaultScope, vaultScope
	other.Scopes = []string{"https://vault.azure.cn/.default"}
	claims.Claims = `{"access_token":{}}`
	for i, opts := range []policy.TokenRequestOptions{vaultScope, other, claims, claims} {
		token, err := src.GetToken(t.Context(), opts)
		if want := fmt.Sprint("token-", i+1); err != nil || token.Token != want {
			t.Errorf("%v: %v, %v; want %s", opts, token.Token, err, want)
		}
	}
	must(t, tasks.Stop(time.Second))
}

func TestTokenAcquisitionIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cred := &credentialFunc{get: func(ctx context.Context, _ int) (azcore.AccessToken, error) {
			<-ctx.Done()
			return azcore.AccessToken{}, errors.New(canary)
		}}
		src, tasks := newTestSource(cred)
		began := time.Now()
		_, err := src.GetToken(t.Context(), vaultScope)
		if e := secret.AsError(err); e.Reason != secret.ReasonStoreUnavailable || time.Since(began) != 10*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		checkClean(t, "the error", err.Error())
		must(t, tasks.Stop(time.Second))
	})
}

func TestFailureAnswersAllWhoWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cred := &credentialFunc{get: func(context.Context, int) (azcore.AccessToken, error) {
			time.Sleep(time.Second) // of the bubble's clock
			return azcore.AccessToken{}, errors.New("no")
		}}
		src, tasks := newTestSource(cred)
		early := src.mark(t.Context()) // a read that the SDK queues behind the first
		_, first := src.GetToken(src.mark(t.Context()), vaultScope)
		if _, err := src.GetToken(early, vaultScope); err == nil || !errors.Is(err, first) || cred.called() != 1 {
			t.Errorf("an earlier read: %v after %d acquisitions, want the failure it waited for", err, cred.called())
		}
		if _, err := src.GetToken(src.mark(t.Context()), vaultScope); err == nil || cred.called() != 2 {
			t.Errorf("a later read: %v after %d acquisitions, want its own", err, cred.called())
		}
		must(t, tasks.Stop(time.Second))
	})
}

func TestRenewalKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := make(chan struct{})
		cred := &credentialFunc{get: func(ctx context.Context, call int) (azcore.AccessToken, error) {
			if call > 1 {
				select {
				case <-slow:
				case <-ctx.Done():
					return azcore.AccessToken{}, ctx.Err()
				}
			}
			return hourToken(call), nil
		}}
		src, tasks := newTestSource(cred)
		get := func(want string) {
			t.Helper()
			if token, err := src.GetToken(t.Context(), vaultScope); err != nil || token.Token != want {
				t.Errorf("%s, %v; want %s", token.Token, err, want)
			}
		}
		get("token-1")
		time.Sleep(55 * time.Minute)
		began := time.Now()
		get("token-1") // its renewal hangs
		if time.Since(began) != 0 {
			t.Errorf("waited %v for a renewal", time.Since(began))
		}
		time.Sleep(15 * time.Second) // the renewal has failed meanwhile
		get("token-1")
		close(slow)
		synctest.Wait()
		get("token-3")
		synctest.Wait() // for the renewal that the last call began
		must(t, tasks.Stop(time.Second))
	})
}

func TestCredentialThatFailsByItself(t *testing.T) {
	for name, get := range map[string]func(context.Context, int) (azcore.AccessToken, error){
		"panics":      func(context.Context, int) (azcore.AccessToken, error) { panic(canary) },
		"empty token": func(context.Context, int) (azcore.AccessToken, error) { return azcore.AccessToken{}, nil },
	} {
		t.Run(name, func(t *testing.T) {
			src, tasks := newTestSource(&credentialFunc{get: get})
			_, err := src.GetToken(t.Context(), vaultScope)
			// Nothing was sent, so the fault is on this side.
			if reason := secret.AsError(err).Reason; err == nil || reason != secret.ReasonStoreAuthenticationFailed {
				t.Fatalf("%v, want %s", err, secret.ReasonStoreAuthenticationFailed)
			}
			checkClean(t, "the error", err.Error())
			must(t, tasks.Stop(time.Second))
		})
	}
}

func TestStopCancelsAndWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cred := &credentialFunc{get: func(ctx context.Context, _ int) (azcore.AccessToken, error) {
			<-ctx.Done()
			return azcore.AccessToken{}, ctx.Err()
		}}
		src, tasks := newTestSource(cred)
		ctx, cancel := context.WithCancel(t.Context())
		cancelled := make(chan error, 1)
		go func() {
			_, err := src.GetToken(ctx, vaultScope)
			cancelled <- err
		}()
		synctest.Wait()
		cancel() // nobody waits for the acquisition any more
		if err := <-cancelled; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		must(t, tasks.Stop(time.Second))
		if _, err := src.GetToken(t.Context(), vaultScope); !errors.Is(err, errClosed) {
			t.Errorf("after stop: %v", err)
		}
	})
}

func TestStopIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tasks := task.NewGroup()
		release := make(chan struct{})
		tasks.Start(func(context.Context) { <-release })
		if err := tasks.Stop(time.Second); err == nil {
			t.Error("stop claims that a task has ended which has not")
		}
		close(release)
	})
}
