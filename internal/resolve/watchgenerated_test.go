package resolve_test

import (
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestWatchGenerated: a caller with a grant is told of the credential that its Resolve gets,
// which neither a stream nor a hint replaces.
func TestWatchGenerated(t *testing.T) {
	watched(t, func(t *testing.T, b *watchBench) {
		const store = "https://vault.example.org"
		policy, err := authz.NewPolicy(secret.KindHashiCorpVault, []string{store}, []authz.Grant{{ID: "g", Principals: []string{string(worker)}}})
		if err != nil {
			t.Fatal(err)
		}
		b.changed.Lock()
		b.integrations["x"] = &integration.Integration{ID: "x", Kind: secret.KindHashiCorpVault, Policy: policy}
		b.changed.Unlock()
		b.store.mu.Lock()
		b.store.secrets["database/creds"] = "canary"
		b.store.mu.Unlock()
		configs := map[string]string{"p": store + "::database/creds"}
		b.store.expires = time.Now().Add(time.Hour)
		if _, err := b.call(worker, resolve.Request{IntegrationID: "x", Configs: configs}); err != nil {
			t.Fatal(err)
		}
		_ = b.events(t)
		for range 3 {
			w := b.open(t, worker, set("x", configs))
			if got := told(t, w); got != "0/p CURRENT v1" {
				t.Errorf("got %q", got)
			}
			b.hub.Hint("x", store, "database/creds")
			if load, ok := b.Read(t.Context(), "", "x", parsed(t, configs["p"]), true); !ok || load.Version != "v1" {
				t.Errorf("got %+v", load)
			}
			w.Close()
			role := b.open(t, rotator, set("x", configs))
			if got := told(t, role); got != "0/p UNREADABLE SECRET_NOT_WATCHABLE" {
				t.Errorf("got %q", got)
			}
			role.Close()
			time.Sleep(10 * time.Second)
		}
		if n := b.store.reads.Load(); n != 1 {
			t.Errorf("%d reads", n)
		}
	})
}

func parsed(t *testing.T, text string) secret.Ref {
	t.Helper()
	ref, err := secret.ParseRef(text)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// TestLost: a credential that its store has revoked is not an answer any more.
func TestLost(t *testing.T) {
	watched(t, func(t *testing.T, b *watchBench) {
		get := func() {
			t.Helper()
			if _, err := b.call(worker, resolve.Request{Configs: map[string]string{"p": vault + "::plain"}}); err != nil {
				t.Fatal(err)
			}
		}
		get()
		get()
		b.Lost(b.integration, parsed(t, vault+"::plain"), "v0")
		get()
		if n := b.store.reads.Load(); n != 1 {
			t.Errorf("%d reads", n)
		}
		b.Lost(b.integration, parsed(t, vault+"::plain"), "v1")
		get()
		if n := b.store.reads.Load(); n != 2 {
			t.Errorf("%d reads after the loss", n)
		}
	})
}
