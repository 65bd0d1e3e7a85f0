package azurekv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/credential"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/provider/task"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// credentialFunc is a credential that calls a func with the number of the call, from
// 1.
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

func newTestSource(t *testing.T, cred azcore.TokenCredential) (*tokenSource, *task.Group) {
	t.Helper()
	tasks := task.NewGroup()
	a := &Settings{TenantID: tenantID, Credential: Credential{Type: ClientSecret}}
	src := newTokenSource(provider.Config{}.For(&integration.Integration{}), slog.New(slog.DiscardHandler), a.identity(), cred, tasks)
	t.Cleanup(src.close)
	return src, tasks
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
		src, tasks := newTestSource(t, cred)
		began := time.Now()
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				ctx := t.Context()
				if i%2 == 0 { // callers that give up, probably the first caller among them
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, time.Second)
					defer cancel()
				}
				token, err := src.GetToken(ctx, vaultScope)
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
		providertest.Must(t, tasks.Stop(time.Second))
	})
}

func TestTokensForDifferentPurposesAreApart(t *testing.T) {
	cred := &credentialFunc{get: func(_ context.Context, call int) (azcore.AccessToken, error) { return hourToken(call), nil }}
	src, tasks := newTestSource(t, cred)
	other, claims := vaultScope, vaultScope
	other.Scopes = []string{"https://vault.azure.cn/.default"}
	claims.Claims = `{"access_token":{}}`
	for i, opts := range []policy.TokenRequestOptions{vaultScope, other, claims} {
		token, err := src.GetToken(t.Context(), opts)
		if want := fmt.Sprint("token-", i+1); err != nil || token.Token != want {
			t.Errorf("%v: %v, %v; want %s", opts, token.Token, err, want)
		}
	}
	providertest.Must(t, tasks.Stop(time.Second))
}

func TestTokenAcquisitionIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cred := &credentialFunc{get: func(ctx context.Context, _ int) (azcore.AccessToken, error) {
			<-ctx.Done()
			return azcore.AccessToken{}, errors.New(canary)
		}}
		src, tasks := newTestSource(t, cred)
		began := time.Now()
		_, err := src.GetToken(t.Context(), vaultScope)
		if e := secret.AsError(err); e.Reason != secret.ReasonStoreUnavailable || time.Since(began) != 10*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if strings.Contains(err.Error(), canary) {
			t.Errorf("the error quotes the credential: %v", err)
		}
		providertest.Must(t, tasks.Stop(time.Second))
	})
}

// For a while after a failure, all callers for this purpose get the same error.
func TestFailureIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cred := &credentialFunc{get: func(context.Context, int) (azcore.AccessToken, error) {
			time.Sleep(time.Second) // by the bubble's clock
			return azcore.AccessToken{}, errors.New("no")
		}}
		src, tasks := newTestSource(t, cred)
		for range 200 {
			if _, err := src.GetToken(t.Context(), vaultScope); err == nil {
				t.Fatal("a token")
			}
		}
		if cred.called() != 1 {
			t.Errorf("%d acquisitions", cred.called())
		}
		time.Sleep(credential.RefusalPause)
		if _, err := src.GetToken(t.Context(), vaultScope); err == nil || cred.called() != 2 {
			t.Errorf("after the pause: %v after %d acquisitions", err, cred.called())
		}
		providertest.Must(t, tasks.Stop(time.Second))
	})
}

// A timer requests a token's successor, and no caller waits for it.
func TestRenewalKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cred := &credentialFunc{get: func(_ context.Context, call int) (azcore.AccessToken, error) {
			time.Sleep(time.Second)
			return hourToken(call), nil
		}}
		src, tasks := newTestSource(t, cred)
		get := func(want string) {
			t.Helper()
			if token, err := src.GetToken(t.Context(), vaultScope); err != nil || token.Token != want {
				t.Errorf("%s, %v; want %s", token.Token, err, want)
			}
		}
		get("token-1")
		time.Sleep(54 * time.Minute)
		began := time.Now()
		get("token-1")
		time.Sleep(5*time.Minute - time.Since(began))
		began = time.Now()
		get("token-2")
		if time.Since(began) != 0 {
			t.Errorf("waited %v for a renewal", time.Since(began))
		}
		// The SDK's clients cache the token, so reads mark it as in use.
		for range 6 {
			time.Sleep(30 * time.Minute)
			src.touch()
		}
		if n := cred.called(); n < 4 || n > 6 {
			t.Errorf("%d acquisitions", n)
		}
		src.close()
		providertest.Must(t, tasks.Stop(time.Second))
	})
}

// If a vault refuses every token by requesting different claims each time, the source
// acquires one token in five seconds, and does not return a refused token again.
func TestClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cred := &credentialFunc{get: func(_ context.Context, call int) (azcore.AccessToken, error) { return hourToken(call), nil }}
		src, tasks := newTestSource(t, cred)
		get := func(claims, want string) {
			t.Helper()
			opts := vaultScope
			opts.Claims = claims
			token, err := src.GetToken(t.Context(), opts)
			if want == "" && secret.AsError(err).Reason != secret.ReasonStoreAuthenticationFailed || token.Token != want {
				t.Errorf("claims %q: %q, %v; want %q", claims, token.Token, err, want)
			}
		}
		get("", "token-1")
		get(`{"a":1}`, "token-2")
		get("", "token-3")
		get(`{"a":1}`, "token-2") // the same claims, the same token
		for n := range 100 {
			get(fmt.Sprintf(`{"b":%d}`, n), "")
		}
		time.Sleep(renewPause)
		get(`{"c":1}`, "token-4")
		for n := range 20 {
			time.Sleep(renewPause)
			get(fmt.Sprintf(`{"d":%d}`, n), fmt.Sprint("token-", 5+n))
		}
		if n := len(src.held); n > maxPurposes {
			t.Errorf("%d tokens are held", n)
		}
		src.close()
		providertest.Must(t, tasks.Stop(time.Second))
	})
}

func TestCredentialThatFailsByItself(t *testing.T) {
	for name, get := range map[string]func(context.Context, int) (azcore.AccessToken, error){
		"panics":      func(context.Context, int) (azcore.AccessToken, error) { panic(canary) },
		"empty token": func(context.Context, int) (azcore.AccessToken, error) { return azcore.AccessToken{}, nil },
	} {
		t.Run(name, func(t *testing.T) {
			src, tasks := newTestSource(t, &credentialFunc{get: get})
			_, err := src.GetToken(t.Context(), vaultScope)
			// Nothing was sent, so the fault is on the broker's side.
			if reason := secret.AsError(err).Reason; err == nil || reason != secret.ReasonStoreAuthenticationFailed {
				t.Fatalf("%v, want %s", err, secret.ReasonStoreAuthenticationFailed)
			}
			if strings.Contains(err.Error(), canary) {
				t.Errorf("the error quotes the credential: %v", err)
			}
			providertest.Must(t, tasks.Stop(time.Second))
		})
	}
}

func TestStopCancelsAndWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cred := &credentialFunc{get: func(ctx context.Context, _ int) (azcore.AccessToken, error) {
			<-ctx.Done()
			return azcore.AccessToken{}, ctx.Err()
		}}
		src, tasks := newTestSource(t, cred)
		ctx, cancel := context.WithCancel(t.Context())
		cancelled := make(chan error, 1)
		go func() {
			_, err := src.GetToken(ctx, vaultScope)
			cancelled <- err
		}()
		synctest.Wait()
		cancel() // no caller waits for the acquisition any more
		if err := <-cancelled; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		providertest.Must(t, tasks.Stop(time.Second))
		if _, err := src.GetToken(t.Context(), vaultScope); !errors.Is(err, storeerror.ErrClosed) {
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
