package azurekv

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func TestRefusedTokenIsRenewedOnce(t *testing.T) {
	f := newFake(t)
	s := f.open(f.Config(), f.integration())
	db := vaultURL + "::db"
	f.Fetch(s, db)
	f.refuse()
	f.Fetch(s, db)
	// The refused read, the SDK's retry with the same token, and the successful read.
	if issued, reads := f.counts(); issued != 2 || reads != 4 {
		t.Errorf("%d tokens, %d reads; want 2 and 4", issued, reads)
	}
	f.Fetch(s, db)
	f.Fetch(s, otherURL+"::db")
	if issued, reads := f.counts(); issued != 2 || reads != 6 {
		t.Errorf("afterwards %d tokens, %d reads; want 2 and 6", issued, reads)
	}
}

func TestConcurrentRefusalsRenewOnce(t *testing.T) {
	f := newFake(t)
	s := f.open(f.Config(), f.integration())
	f.Fetch(s, vaultURL+"::db")
	f.Fetch(s, otherURL+"::db")
	f.refuse()
	var wg sync.WaitGroup
	for i := range 50 {
		r := providertest.Ref(t, fmt.Sprintf("%s::db-%d", []string{vaultURL, otherURL}[i%2], i))
		wg.Go(func() {
			if _, err := s.Fetch(t.Context(), r); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if issued, _ := f.counts(); issued != 2 {
		t.Errorf("%d tokens, want the first and one renewal", issued)
	}
}

func TestVaultThatRefusesEveryToken(t *testing.T) {
	f := newFake(t)
	now := time.Now()
	cfg := f.Config()
	cfg.Now = func() time.Time { return now }
	f.vault = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", f.challenge)
		providertest.WriteJSON(w, http.StatusUnauthorized, `{"error":{"code":"Unauthorized","message":"`+canary+`"}}`)
	}
	s := f.open(cfg, f.integration())
	db := vaultURL + "::db"
	for i, want := range []int{2, 2, 2} {
		f.Fails(t.Context(), s, db, secret.ReasonStoreAuthenticationFailed)
		if issued, _ := f.counts(); issued != want {
			t.Errorf("read %d: %d tokens, want %d", i, issued, want)
		}
	}
	now = now.Add(renewPause)
	f.Fails(t.Context(), s, db, secret.ReasonStoreAuthenticationFailed)
	if issued, _ := f.counts(); issued != 3 {
		t.Errorf("after the pause: %d tokens, want 3", issued)
	}
}

// akv10046: the vault could not load the keys of the login authority. That says nothing
// about the token, passes within seconds, and permits a stale value meanwhile.
func TestVaultThatCannotCheckTokens(t *testing.T) {
	f := newFake(t)
	s := f.open(f.Config(), f.integration())
	var healed atomic.Bool
	f.vault = func(w http.ResponseWriter, r *http.Request) {
		if healed.Load() {
			f.answer(w, r, "", 0)
			return
		}
		w.Header().Set("WWW-Authenticate", f.challenge)
		providertest.WriteJSON(w, http.StatusUnauthorized, `{"error":{"code":"Unauthorized","message":"AKV10046: Unable to resolve the key used for signature validation. `+canary+`"}}`)
	}
	e := f.Fails(t.Context(), s, vaultURL+"::db", secret.ReasonStoreUnavailable)
	if issued, _ := f.counts(); issued != 1 || !strings.Contains(e.Message, "AKV10046") || strings.Contains(e.Message, canary) {
		t.Errorf("%d tokens, %v", issued, e)
	}
	healed.Store(true)
	f.Fetch(s, vaultURL+"::db") // at once
	if issued, _ := f.counts(); issued != 1 {
		t.Errorf("afterwards %d tokens", issued)
	}
}

// TestSlowLoginHoldsNobody: while the login authority hangs, callers can stop waiting
// at any time, also those of another vault, and the acquisition continues for the
// others.
func TestSlowLoginHoldsNobody(t *testing.T) {
	f := newFake(t)
	arrived, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	f.token = func(w http.ResponseWriter, _ *http.Request) {
		once.Do(func() { close(arrived) })
		<-release
		f.issue(w)
	}
	s := f.open(f.Config(), f.integration())
	patient := make(chan error, 1)
	go func() {
		_, err := s.Fetch(t.Context(), providertest.Ref(t, vaultURL+"::patient"))
		patient <- err
	}()
	<-arrived
	for _, vault := range []string{vaultURL, otherURL} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		e := f.Fails(ctx, s, vault+"::impatient", secret.ReasonStoreUnavailable)
		if !errors.Is(e, context.DeadlineExceeded) {
			t.Errorf("%v is not the caller's deadline", e)
		}
		cancel()
	}
	close(release)
	if err := <-patient; err != nil {
		t.Error(err)
	}
	f.Fetch(s, otherURL+"::db")
	if issued, _ := f.counts(); issued != 1 {
		t.Errorf("%d tokens, want 1", issued)
	}
}

func TestCloseEndsWhatNobodyWaitsFor(t *testing.T) {
	f := newFake(t)
	arrived, release := make(chan struct{}, 1), make(chan struct{})
	f.token = func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-release
	}
	defer close(release)
	p, err := Opener(f.Config())(t.Context(), f.integration())
	providertest.Must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	if _, err := p.Fetch(ctx, providertest.Ref(t, vaultURL+"::db")); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	providertest.Must(t, p.Close())
	if _, err := p.Fetch(t.Context(), providertest.Ref(t, vaultURL+"::db")); secret.AsError(err).Reason != secret.ReasonStoreUnavailable {
		t.Errorf("after Close: %v", err)
	}
}

// 200 reads with a secret that Entra ID refuses cause only a few token requests.
func TestRefusedSecretIsLeftAlone(t *testing.T) {
	f := newFake(t)
	var asked atomic.Int32
	f.token = func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		providertest.WriteJSON(w, http.StatusUnauthorized, `{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided."}`)
	}
	s := f.open(f.Config(), f.integration())
	for i := range 200 {
		vault := []string{vaultURL, otherURL}[i%2]
		f.Fails(t.Context(), s, fmt.Sprintf("%s::db-%d", vault, i), secret.ReasonStoreAuthenticationFailed)
	}
	if n := asked.Load(); n < 1 || n > 4 { // a slow machine may take longer than a pause
		t.Errorf("%d requests for tokens", n)
	}
}

func TestManagedIdentityIsNotRenewed(t *testing.T) {
	s := &login[vaultClients]{cfg: provider.Config{}.For(&integration.Integration{}), id: identity{credential: Credential{Type: ManagedIdentity}}}
	s.current = &session[vaultClients]{}
	if s.renew(s.current, vaultHost) != nil {
		t.Error("a new credential would get the same token")
	}
}
