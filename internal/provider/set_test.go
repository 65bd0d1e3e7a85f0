package provider_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeProvider records the revision that it was opened for, and fails the test if it
// is used after Close, or closed during use.
type fakeProvider struct {
	t        *testing.T
	revision string
	gate     chan struct{} // Fetch waits for it if not nil
	entered  chan struct{}
	users    atomic.Int32
	closed   atomic.Bool
}

func (p *fakeProvider) Fetch(context.Context, secret.Ref) (*secret.Secret, error) {
	p.users.Add(1)
	defer p.users.Add(-1)
	if p.closed.Load() {
		p.t.Error("Fetch of a closed provider")
	}
	if p.gate != nil {
		p.entered <- struct{}{}
		<-p.gate
	}
	return secret.New(p.revision, time.Now(), time.Time{}, nil), nil
}

func (p *fakeProvider) Close() error {
	if p.users.Load() != 0 || p.closed.Swap(true) {
		p.t.Error("closed while in use, or twice")
	}
	return nil
}

func in(revision string) *integration.Integration {
	return &integration.Integration{ID: "i", ReadRevision: revision, Kind: secret.KindAzureKeyVault}
}

// newSet returns a set and the providers it has opened, by revision.
func newSet(t *testing.T, prepare func(*fakeProvider)) (*provider.Set, func(revision string) *fakeProvider) {
	var mu sync.Mutex
	opened := make(map[string]*fakeProvider)
	open := func(_ context.Context, in *integration.Integration) (provider.Provider, error) {
		mu.Lock()
		defer mu.Unlock()
		if in.ReadRevision == "bad" {
			return nil, secret.Errorf(secret.ReasonStoreAuthenticationFailed, "no credential")
		}
		p := &fakeProvider{t: t, revision: in.ReadRevision}
		if prepare != nil {
			prepare(p)
		}
		opened[in.ReadRevision] = p
		return p, nil
	}
	return provider.NewSet(provider.SetConfig{Openers: map[secret.Kind]provider.Opener{secret.KindAzureKeyVault: open}}), func(revision string) *fakeProvider {
		mu.Lock()
		defer mu.Unlock()
		return opened[revision]
	}
}

func TestSetReplacesSupersededProviders(t *testing.T) {
	set, opened := newSet(t, nil)
	for range 2 {
		if s, err := set.Fetch(t.Context(), in("1"), secret.Ref{}); err != nil || s.Version != "1" {
			t.Fatalf("got %v, %v", s, err)
		}
	}
	first := opened("1")
	set.Supersede("i", "2")
	if _, err := set.Fetch(t.Context(), in("2"), secret.Ref{}); err != nil {
		t.Fatal(err)
	}
	if opened("1") != first || !first.closed.Load() || opened("2").closed.Load() {
		t.Error("the first provider was not reused and then closed")
	}
	if _, err := set.Fetch(t.Context(), in("bad"), secret.Ref{}); secret.AsError(err).Reason != secret.ReasonStoreAuthenticationFailed {
		t.Errorf("got %v", err)
	}
	if opened("2").closed.Load() {
		t.Error("a revision that cannot be opened closed the good one")
	}
	set.Remove("i")
	set.Remove("unknown")
	if !opened("2").closed.Load() {
		t.Error("a removed integration's provider stays open")
	}
	if err := set.Close(); err != nil {
		t.Error(err)
	}
	if _, err := set.Fetch(t.Context(), in("3"), secret.Ref{}); secret.AsError(err).Reason != secret.ReasonStoreUnavailable {
		t.Errorf("after Close: %v", err)
	}
}

// TestSetWaitsForUsers: a superseded provider is closed by its last user.
func TestSetWaitsForUsers(t *testing.T) {
	gate, entered := make(chan struct{}), make(chan struct{})
	set, opened := newSet(t, func(p *fakeProvider) {
		if p.revision == "1" {
			p.gate, p.entered = gate, entered
		}
	})
	var users sync.WaitGroup
	for range 3 {
		users.Go(func() {
			if s, err := set.Fetch(context.Background(), in("1"), secret.Ref{}); err != nil || s.Version != "1" {
				t.Errorf("got %v, %v", s, err)
			}
		})
		<-entered
	}
	set.Supersede("i", "2")
	if _, err := set.Fetch(t.Context(), in("2"), secret.Ref{}); err != nil {
		t.Fatal(err)
	}
	if opened("1").closed.Load() {
		t.Error("closed under its users")
	}
	close(gate)
	users.Wait()
	if !opened("1").closed.Load() {
		t.Error("not closed after its last user")
	}
	if err := set.Close(); err != nil {
		t.Error(err)
	}
}

func TestSetUnderRevisionChanges(t *testing.T) {
	set, _ := newSet(t, nil)
	var users sync.WaitGroup
	for i := range 8 {
		users.Go(func() {
			for n := range 200 {
				revision := string(rune('a' + (n+i)%3))
				switch n % 7 {
				case 0:
					set.Supersede("i", revision)
				case 3:
					set.Remove("i")
				}
				if s, err := set.Fetch(context.Background(), in(revision), secret.Ref{}); err != nil || s.Version != revision {
					t.Errorf("got %v, %v", s, err)
				}
			}
		})
	}
	users.Wait()
	if err := set.Close(); err != nil {
		t.Error(err)
	}
}

func TestSetObserves(t *testing.T) {
	var reasons []secret.Reason
	want := secret.Errorf(secret.ReasonSecretNotFound, "no")
	set := provider.NewSet(provider.SetConfig{
		Openers: map[secret.Kind]provider.Opener{
			secret.KindAzureKeyVault: func(context.Context, *integration.Integration) (provider.Provider, error) { return failing{want}, nil },
		},
		Observe: func(_ context.Context, kind secret.Kind, err error, took time.Duration) {
			if kind != secret.KindAzureKeyVault || took < 0 {
				t.Errorf("observed %v, %v", kind, took)
			}
			reasons = append(reasons, secret.AsError(err).Reason)
		},
	})
	if _, err := set.Fetch(t.Context(), in("1"), secret.Ref{}); !errors.Is(err, want) {
		t.Errorf("got %v", err)
	}
	if len(reasons) != 1 || reasons[0] != secret.ReasonSecretNotFound {
		t.Errorf("observed %v", reasons)
	}
	if _, err := set.Fetch(t.Context(), &integration.Integration{ID: "j", Kind: "OTHER"}, secret.Ref{}); secret.AsError(err).Reason != secret.ReasonInternal {
		t.Errorf("an unknown kind: %v", err)
	}
	if err := set.Close(); err == nil {
		t.Error("a failing Close was not told")
	}
}

type failing struct{ err error }

func (f failing) Fetch(context.Context, secret.Ref) (*secret.Secret, error) { return nil, f.err }
func (f failing) Close() error                                              { return f.err }
