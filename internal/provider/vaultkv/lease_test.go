package vaultkv

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// engine is the fake of a secrets engine at database/.
type engine struct {
	made, renewed int
	duration      int // of leases, in seconds
	refuse        bool
}

func newEngine(v *fake) *engine {
	e := &engine{duration: 100}
	v.made = func(w http.ResponseWriter, _ *http.Request) {
		e.made++
		providertest.WriteJSON(w, 200, fmt.Sprintf(`{"request_id":"made-%d","lease_id":"database/creds/app/%d","lease_duration":%d,"renewable":true,"data":{"password":"p%d"}}`, e.made, e.made, e.duration, e.made))
	}
	v.renewed = func(w http.ResponseWriter, _ *http.Request) {
		if e.refuse {
			providertest.WriteJSON(w, 400, `{"errors":["lease not found or lease is not renewable"]}`)
			return
		}
		e.renewed++
		providertest.WriteJSON(w, 200, fmt.Sprintf(`{"lease_id":"database/creds/app/%d","lease_duration":%d,"renewable":true,"data":null}`, e.made, e.duration))
	}
	return e
}

// TestLeases follows one credential through its life.
func TestLeases(t *testing.T) {
	v := newFake()
	e := newEngine(v)
	f := newFront(t, v)
	now := time.Now()
	cfg := f.Config()
	cfg.Now = func() time.Time { return now }
	s := f.open(t, cfg, f.integration(t, roleID, secretID))
	step := func(what, password string, made, renewed int) *secret.Secret {
		t.Helper()
		got := fetch(t, s, "database/creds/app")
		if p := text(t, got, "password"); p != password || e.made != made || e.renewed != renewed {
			t.Errorf("%s: %s, %d made, %d renewed; want %s, %d, %d", what, p, e.made, e.renewed, password, made, renewed)
		}
		return got
	}
	first := step("new", "p1", 1, 0)
	if left := first.ExpiresAt.Sub(first.FetchedAt); left != 90*time.Second {
		t.Errorf("good for %v, the lease is of 100s", left)
	}
	second := step("renewed", "p1", 1, 1)
	if second.Version != first.Version || !second.FetchedAt.After(first.FetchedAt) {
		t.Errorf("versions %q, %q", first.Version, second.Version)
	}
	first.Release()
	second.Release()
	step("renewed again, though both were given up", "p1", 1, 2).Release()
	e.duration = 30 // the lease is close to its maximum lifetime
	step("hardly renewed", "p2", 2, 3).Release()
	e.duration = 100
	e.refuse = true
	step("not renewed", "p3", 3, 3).Release()
	e.refuse = false
	now = now.Add(2 * time.Minute)
	step("too late", "p4", 4, 3).Release()
}

// TestLeaseEndsWithItsToken: Vault revokes the leases of a token when the token ends.
func TestLeaseEndsWithItsToken(t *testing.T) {
	v := newFake()
	v.tokenTTL = 50
	newEngine(v)
	f := newFront(t, v)
	got := fetch(t, f.open(t, f.Config(), f.integration(t, roleID, secretID)), "database/creds/app")
	if left := time.Until(got.ExpiresAt); left > 45*time.Second || left < 40*time.Second {
		t.Errorf("good for %v, the token for 50s", left)
	}
}

// TestStaticRoles: static roles have no lease; the engine reports when it rotates the
// password, which has the same version until then.
func TestStaticRoles(t *testing.T) {
	v := newFake()
	v.made = func(w http.ResponseWriter, _ *http.Request) {
		providertest.WriteJSON(w, 200, `{"request_id":"r","lease_id":"","lease_duration":0,"renewable":false,"data":{"username":"u","password":"p","ttl":100,"last_vault_rotation":"2024-05-06T15:26:42.525302-05:00"}}`)
	}
	f := newFront(t, v)
	got := fetch(t, f.open(t, f.Config(), f.integration(t, roleID, secretID)), "database/static-creds/app")
	if left := got.ExpiresAt.Sub(got.FetchedAt); left != 90*time.Second || text(t, got, "password") != "p" || got.Version != "rotated-2024-05-06T20:26:42.525302Z" {
		t.Errorf("version %q, good for %v", got.Version, left)
	}
}

// The timer renews the lease of a credential that was read, so that its callers can
// keep using it. It drops the lease of a credential that was not read since the last
// renewal.
func TestLeasesInUseAreRenewedByTheClock(t *testing.T) {
	v := newFake()
	e := newEngine(v)
	f := newFront(t, v)
	s := f.open(t, f.Config(), f.integration(t, roleID, secretID))
	const path = "database/creds/app"
	read := func(what, password string, made, renewed int) {
		t.Helper()
		got := fetch(t, s, path)
		defer got.Release()
		if p := text(t, got, "password"); p != password || e.made != made || e.renewed != renewed {
			t.Errorf("%s: %s, %d made, %d renewed; want %s, %d, %d", what, p, e.made, e.renewed, password, made, renewed)
		}
	}
	read("new", "p1", 1, 0)
	s.renewUsed(t.Context(), path)
	read("renewed by the clock, and by this read", "p1", 1, 2)
	s.renewUsed(t.Context(), path)
	s.renewUsed(t.Context(), path) // a whole lease duration without a read
	if e.renewed != 3 || len(s.leases.byPath) != 0 {
		t.Errorf("%d renewals, %d leases are kept; nobody has read it", e.renewed, len(s.leases.byPath))
	}
	read("another one", "p2", 2, 3)
	e.refuse = true
	s.renewUsed(t.Context(), path)
	e.refuse = false
	read("one that could not be renewed", "p3", 3, 3)
}

// The store keeps a lease while the server does not respond. Otherwise each later
// read would generate another credential.
func TestLeaseSurvivesAnOutage(t *testing.T) {
	v := newFake()
	e := newEngine(v)
	var down atomic.Bool
	f := newFront(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			providertest.WriteJSON(w, http.StatusServiceUnavailable, `{"errors":["Vault is sealed"]}`)
			return
		}
		v.ServeHTTP(w, r)
	}))
	s := f.open(t, f.Config(), f.integration(t, roleID, secretID))
	const path = "database/creds/app"
	fetch(t, s, path).Release()
	down.Store(true)
	s.renewUsed(t.Context(), path)
	fails(t, s, path, secret.ReasonStoreUnavailable)
	down.Store(false)
	fetch(t, s, path).Release()
	if e.made != 1 || e.renewed != 1 {
		t.Errorf("%d made, %d renewed", e.made, e.renewed)
	}
}

// The timer itself renews after two thirds of a lease, without a read.
func TestLeaseClock(t *testing.T) {
	v := newFake()
	e := newEngine(v)
	e.duration = 3
	renewed := make(chan struct{}, 10)
	next := v.renewed
	v.renewed = func(w http.ResponseWriter, r *http.Request) {
		next(w, r)
		renewed <- struct{}{}
	}
	f := newFront(t, v)
	fetch(t, f.open(t, f.Config(), f.integration(t, roleID, secretID)), "database/creds/app").Release()
	<-renewed
}

// TestRevokedLeaseIsReported: callers have a credential whose lease was revoked, and so has
// the cache. One that only cannot be renewed is valid until its end.
func TestRevokedLeaseIsReported(t *testing.T) {
	v := newFake()
	newEngine(v)
	status, lost := 0, ""
	renewed := v.renewed
	v.renewed = func(w http.ResponseWriter, r *http.Request) {
		if status == 0 {
			renewed(w, r)
			return
		}
		providertest.WriteJSON(w, status, `{"errors":["lease not found"]}`)
	}
	f := newFront(t, v)
	cfg := f.Config()
	cfg.Lost = func(in *integration.Integration, ref secret.Ref, version string) {
		lost = in.ID + " " + ref.String() + " " + version
	}
	s := f.open(t, cfg, f.integration(t, roleID, secretID))
	const path = "database/creds/app"
	for _, tt := range []struct {
		status int
		want   string
	}{{0, ""}, {500, ""}, {403, ""}, {400, "it " + address + "::" + path + " made-2"}, {404, "it " + address + "::" + path + " made-3"}} {
		fetch(t, s, path).Release()
		status, lost = tt.status, ""
		s.renewUsed(t.Context(), path)
		if lost != tt.want {
			t.Errorf("%d: %q, want %q", tt.status, lost, tt.want)
		}
		status = 0
	}
}
