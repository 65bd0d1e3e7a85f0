package vaultkv

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func peek(ctx context.Context, t *testing.T, p provider.Peeker, name string) string {
	t.Helper()
	state, err := p.Peek(ctx, ref(t, name))
	switch {
	case errors.Is(err, provider.ErrCannotPeek):
		return "cannot"
	case err != nil:
		return string(secret.AsError(err).Reason)
	default:
		return state
	}
}

// TestPeek: a poll tells the version that a read returns, reads no value, and keeps nothing
// else of the metadata.
func TestPeek(t *testing.T) {
	v := newFake()
	f := newFront(t, v)
	in := f.integration(t, roleID, secretID)
	settingsOf(in).Poll = 10 * time.Second
	s := f.open(t, f.Config(), in)
	expect := func(what, name, want string) {
		t.Helper()
		if got := peek(t.Context(), t, s, name); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	expect("it does not exist", "secret/db", "missing")
	v.put("secret/db", `{"k":"v1"}`)
	expect("one version", "secret/db", "1")
	v.put("secret/db", `{"k":"v2"}`)
	if got := fetch(t, s, "secret/db"); peek(t.Context(), t, s, "secret/db") != got.Version {
		t.Errorf("the version is %q", got.Version)
	}
	v.newest("secret/db", func(k *kvVersion) { k.deletionTime = time.Now().Add(time.Hour).Format(time.RFC3339Nano) })
	expect("it will be deleted", "secret/db", "2")
	v.newest("secret/db", func(k *kvVersion) { k.deleted, k.deletionTime = true, "2026-11-21T00:00:01Z" })
	expect("deleted", "secret/db", "2 gone")
	v.newest("secret/db", func(k *kvVersion) { k.deleted, k.deletionTime = false, "" })
	expect("undeleted", "secret/db", "2")
	v.newest("secret/db", func(k *kvVersion) { k.destroyed = true })
	expect("destroyed", "secret/db", "2 gone")

	v.revoke()
	expect("the token was revoked", "secret/db", "2 gone")
	f.suffer(t, providertest.Failing)
	expect("the server fails", "secret/db", "STORE_UNAVAILABLE")
	f.suffer(t, providertest.Garbling)
	expect("not Vault", "secret/db", "STORE_UNAVAILABLE")
	f.suffer(t, "")

	v.denied["secret/metadata/db"], v.denied["secret/metadata/other"] = true, true
	expect("no capability", "secret/db", "cannot")
	expect("no capability", "secret/other", "cannot")
	expect("KV version 1", "legacy/db", "cannot")
	expect("generated", "database/creds/app", "cannot")
	expect("a version", "secret/db#1", "cannot")
	expect("another mount", "other/db", "cannot")
	if n := f.requests("GET secret/data/"); n != 1 {
		t.Errorf("%d reads of values", n)
	}
	logs := f.Logs.String()
	if n := strings.Count(logs, "does not permit to poll"); n != 1 || !strings.Contains(logs, "mount=secret") {
		t.Errorf("%d lines about the refusal: %s", n, logs)
	}
	if strings.Contains(logs, "canary") {
		t.Errorf("custom metadata are in the log: %s", logs)
	}
}

// TestPeekThroughTheSet: a poll waits for its turn at the store, and a kind without polls says
// so without a failure of the store.
func TestPeekThroughTheSet(t *testing.T) {
	v := newFake()
	f := newFront(t, v)
	in := f.integration(t, roleID, secretID)
	settingsOf(in).Poll = 10 * time.Second
	in.Reads.PerSecond = 1
	v.put("secret/db", `{"k":"v1"}`)
	other := &integration.Integration{ID: "other", Kind: secret.KindLocalFile}
	set := provider.NewSet(provider.SetConfig{Openers: map[secret.Kind]provider.Opener{
		secret.KindHashiCorpVault: Opener(f.Config()),
		secret.KindLocalFile:      func(context.Context, *integration.Integration) (provider.Provider, error) { return nothing{}, nil },
	}})
	t.Cleanup(func() { providertest.Must(t, set.Close()) })
	peeks := func(in *integration.Integration, ctx context.Context) (string, error) {
		return set.Peek(ctx, in, ref(t, "secret/db"))
	}
	if state, err := peeks(in, t.Context()); state != "1" || err != nil {
		t.Errorf("%q, %v", state, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	throttled := 0
	for range 50 {
		if _, err := peeks(in, ctx); err != nil {
			throttled++
		}
	}
	if throttled == 0 {
		t.Error("reads.per_second does not bound polls")
	}
	for range 20 {
		if _, err := peeks(other, t.Context()); !errors.Is(err, provider.ErrCannotPeek) {
			t.Fatal(err)
		}
	}
}

// nothing is a Provider of a kind without polls.
type nothing struct{}

func (nothing) Fetch(context.Context, secret.Ref) (*secret.Secret, error) {
	return nil, errors.New("no")
}
func (nothing) Close() error { return nil }
