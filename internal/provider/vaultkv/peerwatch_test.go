package vaultkv

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/watch"
)

const reader = authz.Principal("spiffe://example.org/connect/worker-1")

// replica is what a replica of the broker has between its callers and one integration.
type replica struct {
	*resolve.Resolver
	t     *testing.T
	hub   *watch.Hub
	front *front
	in    *integration.Integration
}

func (r *replica) Get(id string) (*integration.Integration, error) {
	if id != r.in.ID {
		return nil, registry.ErrNotFound
	}
	return r.in, nil
}

func (r *replica) List() []*integration.Integration { return nil }

func (*replica) Begin([]audit.Event) (audit.Receipt, audit.Position, error) {
	return audit.Receipt{}, audit.Position{}, nil
}

// newReplica returns a replica that reads the server until the test ends.
func newReplica(t *testing.T, p *peer, role string, ttl time.Duration) *replica {
	r := &replica{t: t, hub: watch.New(watch.Config{}), front: p.newFront(t)}
	r.in = r.front.integration(t, role, p.secretID())
	policy, err := authz.NewPolicy(secret.KindHashiCorpVault, []string{address}, []authz.Grant{{ID: "g", Principals: []string{string(reader)}}})
	providertest.Must(t, err)
	r.in.Policy = policy
	cfg := r.front.Config()
	cfg.Lost = func(in *integration.Integration, ref secret.Ref, version string) { r.Lost(in, ref, version) }
	stores := provider.NewSet(provider.SetConfig{Openers: map[secret.Kind]provider.Opener{secret.KindHashiCorpVault: Opener(cfg)}})
	values, err := cache.New(cache.Config{Loaded: r.hub.Loaded})
	providertest.Must(t, err)
	r.Resolver = resolve.New(resolve.Config{
		Integrations: r, Stores: stores, Peek: stores.Peek, Cache: values, Audit: r, CacheTTL: ttl, Hub: r.hub,
		Versions: func(in *integration.Integration, ref secret.Ref) (secret.Versions, time.Duration) {
			return versions(in, ref), 0
		},
	})
	r.hub.SetReader(r.Resolver)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() { _ = r.hub.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		providertest.Must(t, stores.Close())
		values.Close()
	})
	return r
}

// resolve returns the version and the value that a caller gets.
func (r *replica) resolve(config string) (version, value string) {
	r.t.Helper()
	res, err := r.Resolve(r.t.Context(), resolve.Caller{Principal: reader}, resolve.Request{ID: "r", IntegrationID: r.in.ID, Configs: map[string]string{"p": address + "::" + config}})
	providertest.Must(r.t, err)
	defer res.Wipe()
	return res.Configs[0].Version, res.Configs[0].Value.Reveal()
}

func (r *replica) watch(name, known string) *resolve.Watching {
	r.t.Helper()
	set := resolve.WatchSet{IntegrationID: r.in.ID, Configs: map[string]string{"p": address + "::" + name}}
	if known != "" {
		set.Known = map[string]string{"p": known}
	}
	w, err := r.Watch(r.t.Context(), resolve.Caller{Principal: reader}, resolve.WatchRequest{ID: "r", Sets: []resolve.WatchSet{set}})
	providertest.Must(r.t, err)
	r.t.Cleanup(w.Close)
	return w
}

// expect returns the next notice, which must have the state.
func (r *replica) expect(w *resolve.Watching, want watch.State) resolve.WatchNotice {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer cancel()
	for {
		notices, _, err := w.Next(ctx)
		if err != nil {
			r.t.Fatalf("no notice, want %s: %v", want, err)
		}
		if len(notices) > 0 {
			if notices[0].State != want {
				r.t.Fatalf("%s, want %s", notices[0].State, want)
			}
			return notices[0]
		}
	}
}

// TestPeerWatchCredential follows one credential on two replicas from its creation over a
// renewal to its replacement, and to a revocation in Vault.
func TestPeerWatchCredential(t *testing.T) {
	p := startPeer(t)
	role := p.prepare("1h")
	p.as("POST", "sys/mounts/database/tune", `{"default_lease_ttl":"6s","max_lease_ttl":"8s"}`)
	a, b := newReplica(t, p, role, time.Minute), newReplica(t, p, role, time.Minute)
	const name, reads = "database/creds/app", "GET database/creds/app"
	v1, user := a.resolve(name + "::username")
	_, password := a.resolve(name + "::password")
	w := a.watch(name, v1)
	if n := a.expect(w, watch.Current); n.Version != v1 || n.ExpiresAt.IsZero() || !n.Decision.Generated {
		t.Errorf("got %+v", n)
	}
	// The client comes to another replica with what it has: one more credential.
	other := b.watch(name, v1)
	w1 := b.expect(other, watch.Changed).Version
	if got, _ := b.resolve(name); got != w1 || w1 == v1 || b.front.requests(reads) != 1 {
		t.Errorf("version %q after a notice of %q, %d reads", got, w1, b.front.requests(reads))
	}
	other.Close()
	b.watch(name, w1)
	// After EXPIRING a Resolve lets the broker renew the lease.
	n := a.expect(w, watch.Expiring)
	if left := time.Until(n.ExpiresAt); n.Version != v1 || left <= 0 || left > 2*time.Second {
		t.Errorf("version %q, %v before its end", n.Version, left)
	}
	if got, value := a.resolve(name + "::username"); got != v1 || value != user {
		t.Errorf("version %q before the end of %q", got, v1)
	}
	if again := a.expect(w, watch.Current); again.Version != v1 || !again.ExpiresAt.After(n.ExpiresAt) {
		t.Errorf("got %+v after a renewal", again)
	}
	// The lease cannot be renewed again for long enough.
	a.expect(w, watch.Expiring)
	_, _ = a.resolve(name)
	v2 := a.expect(w, watch.Changed).Version
	if got, value := a.resolve(name + "::password"); got != v2 || v2 == v1 || value == password {
		t.Errorf("version %q after a notice of %q", got, v2)
	}
	if n := a.front.requests(reads); n != 2 {
		t.Errorf("%d credentials were created, want 2", n)
	}
	// A revocation is noticed when the lease is to be renewed.
	p.as("PUT", "sys/leases/revoke-prefix/database", "{}")
	for {
		if n := a.expectOneOf(w, watch.Expiring, watch.Changed); n.State == watch.Changed {
			if got, _ := a.resolve(name); got != n.Version || got == v2 {
				t.Errorf("version %q after a notice of %q", got, n.Version)
			}
			break
		}
	}
	if n := a.front.requests(reads); n != 3 {
		t.Errorf("%d credentials were created, want 3", n)
	}
}

// TestPeerPoll: a secret whose metadata are polled is read when it has changed, and once per
// time-to-live if the policy does not permit polls.
func TestPeerPoll(t *testing.T) {
	p := startPeer(t)
	role := p.prepare("1h")
	const metadata = `path "secret/metadata/*" { capabilities = ["read"] }`
	p.permit(metadata)
	p.as("POST", "secret/data/db", `{"data":{"password":"p1"}}`)
	p.as("POST", "secret/metadata/db", `{"custom_metadata":{"owner":"canary"}}`)
	const polls, reads = "GET secret/metadata/db", "GET secret/data/db"
	r := newReplica(t, p, role, time.Hour)
	settingsOf(r.in).Poll = time.Second
	w := r.watch("secret/db", "")
	if n := r.expect(w, watch.Current); n.Version != "1" {
		t.Errorf("got %+v", n)
	}
	waitFor := func(n int) {
		t.Helper()
		for began := time.Now(); r.front.requests(polls) < n; <-time.After(20 * time.Millisecond) {
			if time.Since(began) > 30*time.Second {
				t.Fatalf("%d polls", r.front.requests(polls))
			}
		}
	}
	waitFor(3)
	if n := r.front.requests(reads); n != 1 {
		t.Errorf("%d reads of a secret that has not changed", n)
	}
	for i, change := range []struct {
		method, path, body string
		want               watch.State
	}{
		{"POST", "secret/data/db", `{"data":{"password":"p2"}}`, watch.Changed},
		{"DELETE", "secret/data/db", "", watch.Unreadable},
		{"POST", "secret/undelete/db", `{"versions":[2]}`, watch.Current},
		{"DELETE", "secret/metadata/db", "", watch.Unreadable},
	} {
		p.as(change.method, change.path, change.body)
		r.expect(w, change.want)
		if n := r.front.requests(reads); n != 2+i {
			t.Errorf("%s: %d reads", change.path, n)
		}
	}
	p.permit("")
	before := r.front.requests(polls)
	waitFor(before + 1)
	<-time.After(3 * time.Second)
	if n := r.front.requests(polls) - before; n > 2 { // one may have been under way
		t.Errorf("%d polls that were refused", n)
	}
	if n := r.front.requests(reads); n != 5 {
		t.Errorf("%d reads within a time-to-live of an hour", n)
	}
}

// expectOneOf is expect for several states.
func (r *replica) expectOneOf(w *resolve.Watching, states ...watch.State) resolve.WatchNotice {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer cancel()
	notices, _, err := w.Next(ctx)
	if err != nil || len(notices) != 1 || (notices[0].State != states[0] && notices[0].State != states[1]) {
		r.t.Fatalf("got %+v, %v", notices, err)
	}
	return notices[0]
}
