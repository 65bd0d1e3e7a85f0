package watch

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	leaseTime = time.Hour
	renewable = true
)

// vending is a Reader of credentials that a read creates, with a cache in front of it.
type vending struct {
	t         *testing.T
	hub       *Hub
	mu        sync.Mutex
	lease     time.Duration // 0: the credentials have no end
	renewable bool
	uncached  bool
	failing   *secret.Error
	revision  string
	created   int
	cached    cache.Load
	owners    map[authz.Principal]bool // may watch by a role only
}

func (*vending) key() cache.Key {
	return cache.Key{Integration: "it", Revision: "1", Store: store, Name: "creds"}
}

func (v *vending) Decide(who authz.Principal, _ string, _ secret.Ref) Decision {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.owners[who] {
		return Decision{Unreadable: secret.Errorf(secret.ReasonSecretNotWatchable, "no")}
	}
	return Decision{ReadRevision: v.revision, Store: store, Interval: ttl, Generated: true}
}

func (v *vending) Read(_ context.Context, _ authz.Principal, _ string, _ secret.Ref, now bool) (cache.Load, bool) {
	if now {
		v.t.Error("a read that does not go through the cache")
	}
	return v.resolve(), true
}

// resolve is what a Resolve does.
func (v *vending) resolve() cache.Load {
	v.mu.Lock()
	now := time.Now()
	c := v.cached
	valid := c.Version != "" && c.Key.Revision == v.revision && (v.lease == 0 || now.Before(c.ExpiresAt))
	if valid && !v.uncached && now.Sub(c.ReadAt) < ttl && (v.lease == 0 || now.Before(c.ExpiresAt.Add(-v.lease/leadPart))) {
		defer v.mu.Unlock()
		return c
	}
	load := cache.Load{Key: v.key(), ReadAt: now, Concerns: func(string) bool { return true }, Version: c.Version}
	load.Key.Revision = v.revision
	switch {
	case v.failing != nil:
		load.Version, load.Err = "", v.failing
	case !valid || !v.renewable:
		v.created++
		load.Version = fmt.Sprint("v", v.created)
	}
	if load.Err == nil && v.lease > 0 {
		load.ExpiresAt = now.Add(v.lease)
	}
	if load.Err == nil {
		v.cached = load
	}
	v.mu.Unlock()
	v.hub.Loaded(load)
	return load
}

func (v *vending) do(f func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f()
}

func (v *vending) expectCreated(want int) {
	v.t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.created != want {
		v.t.Errorf("%d credentials were created, want %d", v.created, want)
	}
}

// keptBy returns the number of targets that are kept.
func keptBy(h *Hub) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.kept)
}

func (*vending) item(known string) Item {
	return Item{IntegrationID: "it", Ref: ref("creds"), Known: known}
}

func vend(t *testing.T, cfg Config, renews bool, test func(t *testing.T, h *Hub, v *vending)) {
	synctest.Test(t, func(t *testing.T) {
		h := New(cfg)
		v := &vending{t: t, hub: h, lease: leaseTime, renewable: renews, revision: "1", owners: make(map[authz.Principal]bool)}
		h.SetReader(v)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = h.Run(ctx) })
		test(t, h, v)
		time.Sleep(2 * leaseTime) // what was kept has ended
		cancel()
		running.Wait()
		if s := h.Stats(); s.Items != 0 || s.Secrets != 0 || len(h.targets)+len(h.due)+len(h.kept)+len(h.of)+len(h.loads) != 0 {
			t.Errorf("something is left: %+v, %d targets, %d kept", s, len(h.targets), len(h.kept))
		}
	})
}

// TestGeneratedRenewed: a credential that is renewed is read once, and only its end is told.
func TestGeneratedRenewed(t *testing.T) {
	vend(t, Config{}, renewable, func(t *testing.T, h *Hub, v *vending) {
		s := open(t, h, alice, v.item(""))
		defer s.Close()
		expect(t, s, time.Second, "0 CURRENT v1, complete")
		for range 3 {
			expect(t, s, 39*time.Minute, "")
			expect(t, s, 2*time.Minute, "0 EXPIRING v1") // after two thirds
			v.resolve()
			expect(t, s, time.Second, "0 CURRENT v1")
		}
		if n := h.Stats().Reads; n != 1 {
			t.Errorf("%d reads", n)
		}
		v.expectCreated(1)
	})
}

// TestGeneratedReplaced: without a Resolve, another credential is read when the validity of
// the first ends, not before, and its watchers are told at once whatever the splay is.
func TestGeneratedReplaced(t *testing.T) {
	vend(t, Config{Splay: time.Hour, ExpiryLead: 10 * time.Minute}, !renewable, func(t *testing.T, h *Hub, v *vending) {
		s, late := open(t, h, alice, v.item("")), open(t, h, bob, v.item("v1"))
		defer s.Close()
		defer late.Close()
		expect(t, s, time.Second, "0 CURRENT v1, complete")
		expect(t, late, time.Second, "0 CURRENT v1, complete")
		expect(t, s, 49*time.Minute, "")
		expect(t, s, 2*time.Minute, "0 EXPIRING v1")
		v.expectCreated(1)
		expect(t, s, 8*time.Minute, "")
		expect(t, s, 5*time.Minute, "0 CHANGED v2")
		expect(t, late, time.Second, "0 CHANGED v2") // EXPIRING is not true any more
		v.expectCreated(2)
		if n := h.Stats().Reads; n != 2 {
			t.Errorf("%d reads", n)
		}
	})
}

// TestGeneratedIsNotReadAgain: hints, sightings of other replicas, streams that come and go,
// and roles do not make the Hub read.
func TestGeneratedIsNotReadAgain(t *testing.T) {
	vend(t, Config{}, !renewable, func(t *testing.T, h *Hub, v *vending) {
		v.owners[bob] = true
		role := open(t, h, bob, v.item(""))
		defer role.Close()
		expect(t, role, time.Second, "0 UNREADABLE SECRET_NOT_WATCHABLE, complete")
		time.Sleep(time.Hour)
		v.expectCreated(0)
		for range 6 { // at intervals that are longer than the time-to-live
			s := open(t, h, alice, v.item("v1"))
			expect(t, s, time.Second, "0 CURRENT v1, complete")
			h.Hint("it", store, "creds")
			h.Hint("", "", "")
			h.Seen(v.key(), "v7")
			expect(t, s, time.Minute, "")
			s.Close()
			time.Sleep(ttl)
		}
		if s := h.Stats(); s.Reads != 1 || s.Secrets != 1 {
			t.Errorf("%+v", s)
		}
		v.expectCreated(1)
		role.Close()
		if s := h.Stats(); s.Secrets != 0 || keptBy(h) != 1 {
			t.Errorf("%+v, %d kept", s, keptBy(h))
		}
		v.resolve() // of a caller that does not watch
		s := open(t, h, alice, v.item("v2"))
		defer s.Close()
		expect(t, s, time.Second, "0 CURRENT v2, complete")
		if n := h.Stats().Reads; n != 1 {
			t.Errorf("%d reads", n)
		}
	})
}

// TestGeneratedElsewhere: a client with the version of another replica is told of this
// replica's, whose creation it causes as its Resolve would.
func TestGeneratedElsewhere(t *testing.T) {
	vend(t, Config{}, renewable, func(t *testing.T, h *Hub, v *vending) {
		s := open(t, h, alice, v.item("w1"))
		expect(t, s, time.Second, "0 CHANGED v1, complete")
		v.expectCreated(1)
		// Another state of the integration has another credential.
		v.do(func() { v.revision = "2" })
		h.IntegrationsChanged(nil, []*integration.Integration{{ID: "it", ReadRevision: "2"}})
		expect(t, s, ttl+2*leaseTime, "0 CHANGED v2")
		s.Close()
		v.do(func() { v.revision = "3" })
		s = open(t, h, alice, v.item("v2"))
		defer s.Close()
		expect(t, s, time.Second, "0 CHANGED v3, complete")
		v.expectCreated(3)
	})
}

// TestGeneratedWithoutEnd: a credential without an end cannot be watched, and the Hub does
// not read it again, which would create another one.
func TestGeneratedWithoutEnd(t *testing.T) {
	vend(t, Config{}, !renewable, func(t *testing.T, h *Hub, v *vending) {
		v.lease = 0
		s := open(t, h, alice, v.item(""))
		expect(t, s, time.Second, "0 UNREADABLE SECRET_NOT_WATCHABLE, complete")
		expect(t, s, 10*ttl, "")
		v.expectCreated(1)
		s.Close()
	})
}

// TestGeneratedOutage: while a credential is valid, failures of the store cause no reads, and
// its watchers are told if there is no other one at its end.
func TestGeneratedOutage(t *testing.T) {
	vend(t, Config{}, renewable, func(t *testing.T, h *Hub, v *vending) {
		s := open(t, h, alice, v.item(""))
		defer s.Close()
		expect(t, s, time.Second, "0 CURRENT v1, complete")
		v.do(func() { v.failing = secret.Errorf(secret.ReasonStoreUnavailable, "no") })
		time.Sleep(2 * ttl)
		v.resolve()
		expect(t, s, 10*time.Second, "")
		expect(t, s, time.Hour, "0 EXPIRING v1")
		if n := h.Stats().Reads; n != 1 {
			t.Errorf("%d reads", n)
		}
		expect(t, s, time.Hour, "0 UNREADABLE STORE_UNAVAILABLE")
		v.do(func() { v.failing = nil })
		expect(t, s, ttl, "0 CHANGED v2")
		v.expectCreated(2)
	})
}

// TestGeneratedUncached: two clients that resolve each change of a credential that the cache
// cannot keep, so that each Resolve creates another one, do not drive each other.
func TestGeneratedUncached(t *testing.T) {
	vend(t, Config{}, !renewable, func(t *testing.T, h *Hub, v *vending) {
		v.uncached = true
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		var running sync.WaitGroup
		for _, who := range []authz.Principal{alice, bob} {
			running.Go(func() {
				s := open(t, h, who, v.item(""))
				defer s.Close()
				for ctx.Err() == nil {
					if strings.Contains(next(t, s, 10*time.Minute), "CHANGED") {
						v.resolve()
					}
				}
			})
		}
		running.Wait()
		if v.created > 10 {
			t.Errorf("%d credentials were created in 10 minutes", v.created)
		}
	})
}

// TestGeneratedKeptIsBounded: of the targets that are not watched any more, a bounded number
// is kept, and no credential that has failed since.
func TestGeneratedKeptIsBounded(t *testing.T) {
	vend(t, Config{}, renewable, func(t *testing.T, h *Hub, v *vending) {
		open(t, h, alice, v.item("")).Close()
		s := open(t, h, alice, v.item(""))
		expect(t, s, time.Second, "0 CURRENT v1, complete")
		s.Close()
		v.do(func() { v.failing = secret.Errorf(secret.ReasonAccessDenied, "no") })
		time.Sleep(2 * ttl)
		v.resolve()
		if n := keptBy(h); n+h.Stats().Secrets != 0 {
			t.Errorf("%d kept, %d targets", n, h.Stats().Secrets)
		}
		h.mu.Lock()
		for len(h.kept) < maxKept {
			h.kept[new(target)] = struct{}{}
		}
		h.mu.Unlock()
		v.do(func() { v.failing = nil })
		s = open(t, h, alice, v.item(""))
		expect(t, s, time.Second, "0 CURRENT v1, complete")
		s.Close()
		h.mu.Lock()
		defer h.mu.Unlock()
		if len(h.targets) != 0 {
			t.Errorf("%d targets", len(h.targets))
		}
		clear(h.kept)
	})
}

// TestGeneratedLost: a credential that the store has revoked is replaced at once if it is
// watched.
func TestGeneratedLost(t *testing.T) {
	vend(t, Config{Splay: time.Hour}, renewable, func(t *testing.T, h *Hub, v *vending) {
		lose := func(version string) {
			v.do(func() {
				if version == v.cached.Version {
					v.cached = cache.Load{}
				}
			})
			h.Lost(v.key(), version)
		}
		s := open(t, h, alice, v.item(""))
		expect(t, s, time.Second, "0 CURRENT v1, complete")
		time.Sleep(time.Minute)
		lose("v0")
		expect(t, s, time.Minute, "")
		lose("v1")
		expect(t, s, 2*time.Second, "0 CHANGED v2")
		s.Close()
		lose("v2")
		time.Sleep(time.Minute)
		v.expectCreated(2)
		if keptBy(h) > 0 {
			t.Error("a credential that was revoked is kept")
		}
	})
}

// silent is a vending whose reads say nothing, and whose callers are denied, at times.
type silent struct {
	*vending
	denied, silent bool // guarded by vending.mu
}

func (v *silent) Decide(who authz.Principal, id string, r secret.Ref) Decision {
	v.mu.Lock()
	denied := v.denied
	v.mu.Unlock()
	if denied {
		return Decision{Denied: secret.Errorf(secret.ReasonAccessDenied, "no")}
	}
	return v.vending.Decide(who, id, r)
}

func (v *silent) Read(ctx context.Context, who authz.Principal, id string, r secret.Ref, now bool) (cache.Load, bool) {
	v.mu.Lock()
	silent := v.silent
	v.mu.Unlock()
	if silent {
		return cache.Load{}, false
	}
	return v.vending.Read(ctx, who, id, r, now)
}

// TestGeneratedAfterKept: when a grant returns after the end of the credential, a first read
// without an outcome is repeated.
func TestGeneratedAfterKept(t *testing.T) {
	vend(t, Config{}, !renewable, func(t *testing.T, h *Hub, v *vending) {
		r := &silent{vending: v}
		h.SetReader(r)
		s := open(t, h, alice, v.item(""))
		defer s.Close()
		expect(t, s, time.Second, "0 CURRENT v1, complete")
		v.do(func() { r.denied = true })
		h.DecisionsChanged()
		expect(t, s, 2*leaseTime, "0 DENIED ACCESS_DENIED")
		expect(t, s, 2*leaseTime, "")
		v.do(func() { r.denied, r.silent = false, true })
		h.DecisionsChanged()
		expect(t, s, time.Second, "")
		v.do(func() { r.silent = false })
		expect(t, s, time.Minute, "0 CHANGED v2")
	})
}
