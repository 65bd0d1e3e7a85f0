package watch

import (
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestSeen: what another replica has seen makes the Hub read a secret now, if it knows
// another version, and only that secret of that integration. The state comes from the read.
func TestSeen(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, h *Hub, w *world) {
		w.set("a", "v1")
		w.set("b", "v1")
		s := open(t, h, alice, Item{Ref: ref("a")}, Item{Ref: ref("b")})
		other := open(t, h, bob, Item{IntegrationID: "other", Ref: ref("a")})
		expect(t, s, time.Second, "0 CURRENT v1, 1 CURRENT v1, complete")
		expect(t, other, time.Second, "0 CURRENT v1, complete")
		time.Sleep(time.Minute)
		before := w.readsOf("a")
		key := cache.Key{Integration: "it", Store: store, Name: "a"}
		h.Seen(key, "v1")
		time.Sleep(10 * time.Second)
		if n := w.readsOf("a") - before; n != 0 {
			t.Errorf("%d reads for a version that is known", n)
		}
		h.Seen(key, "v2") // the store still has v1
		time.Sleep(10 * time.Second)
		if n := w.readsOf("a") - before; n != 1 || w.readsOf("b") != 1 {
			t.Errorf("%d reads of the secret, and %d of another one", n, w.readsOf("b")-1)
		}
		w.set("a", "v2")
		h.Seen(key, "v2")
		expect(t, s, time.Second, "0 CHANGED v2")
		if users := h.AllUsers(); len(users) != 2 || len(users["it"]) != 1 || users["it"][0] != alice || users["other"][0] != bob {
			t.Errorf("users %v", users)
		}
		s.Close()
		other.Close()
		if users := h.AllUsers(); len(users) != 0 {
			t.Errorf("users %v", users)
		}
	})
}

// TestReadElsewhere: a read of another replica takes the place of the next one by the clock,
// if it saw the version that the Hub knows, and of no other read.
func TestReadElsewhere(t *testing.T) {
	key := cache.Key{Integration: "it", Store: store, Name: "a"}
	// reads returns the number of reads within a part of the time-to-live in which there is one
	// by the clock.
	reads := func(w *world) int {
		before := w.readsOf("a")
		time.Sleep(ttl * 7 / 10)
		return w.readsOf("a") - before
	}
	for what, tt := range map[string]struct {
		prepare func(h *Hub, w *world)
		want    int
	}{
		"nothing":         {func(*Hub, *world) {}, 1},
		"the version":     {func(h *Hub, _ *world) { h.ReadElsewhere(key, "v1", time.Now()) }, 0},
		"an older read":   {func(h *Hub, _ *world) { h.ReadElsewhere(key, "v1", time.Now().Add(-ttl)) }, 1},
		"another version": {func(h *Hub, _ *world) { h.ReadElsewhere(key, "v2", time.Now()) }, 1},
		"another secret": {func(h *Hub, _ *world) {
			h.ReadElsewhere(cache.Key{Integration: "it", Store: store, Name: "b"}, "v1", time.Now())
		}, 1},
		"a hint before": {func(h *Hub, _ *world) {
			h.Hint("it", store, "a")
			h.ReadElsewhere(key, "v1", time.Now())
		}, 1},
		"a version that ends": {func(h *Hub, w *world) {
			w.do(func() { w.content["a"] = cache.Load{Version: "v1", ExpiresAt: time.Now().Add(ttl / 2)} })
			h.Hint("it", store, "a")
			time.Sleep(ttl / 4)
			h.ReadElsewhere(key, "v1", time.Now())
		}, 1},
		"a failure": {func(h *Hub, w *world) {
			w.fail("a", secret.ReasonSecretNotFound)
			h.Hint("it", store, "a")
			time.Sleep(ttl * 4 / 10)
			h.ReadElsewhere(key, "v1", time.Now())
		}, 1},
		"an outage": {func(h *Hub, w *world) {
			w.fail("a", secret.ReasonStoreUnavailable)
			h.Hint("it", store, "a")
			time.Sleep(time.Second)
			h.ReadElsewhere(key, "v1", time.Now())
			w.set("a", "v1")
		}, 1},
	} {
		simulated(t, Config{}, func(t *testing.T, h *Hub, w *world) {
			w.set("a", "v1")
			s := open(t, h, alice, Item{Ref: ref("a")})
			defer s.Close()
			expect(t, s, time.Second, "0 CURRENT v1, complete")
			time.Sleep(ttl / 2)
			tt.prepare(h, w)
			if got := reads(w); got != tt.want {
				t.Errorf("after %s: %d reads, expected %d", what, got, tt.want)
			}
		})
	}
}

// TestEndMovesElsewhere: the watchers of a replica whose reads another one replaces are told of
// the end of a version in time, although it has the end only since the first read.
func TestEndMovesElsewhere(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, h *Hub, w *world) {
		w.set("a", "v1")
		s := open(t, h, alice, Item{Ref: ref("a")})
		defer s.Close()
		expect(t, s, time.Second, "0 CURRENT v1, complete")
		end := time.Now().Add(2 * defaultExpiryLead)
		w.do(func() { w.content["a"] = cache.Load{Version: "v1", ExpiresAt: end} })
		key := cache.Key{Integration: "it", Store: store, Name: "a"}
		before := w.readsOf("a")
		for time.Until(end) > defaultExpiryLead {
			h.ReadElsewhere(key, "v1", time.Now())
			time.Sleep(ttl / 2)
		}
		expect(t, s, time.Second, "0 EXPIRING v1")
		if n := w.readsOf("a") - before; n < 1 || n > 5 {
			t.Errorf("%d reads", n)
		}
	})
}

// TestHintDuringLoad: a load that began before a hint does not take the place of the read
// that the hint asks for.
func TestHintDuringLoad(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, h *Hub, w *world) {
		w.set("a", "v1")
		s := open(t, h, alice, Item{Ref: ref("a")})
		defer s.Close()
		expect(t, s, time.Second, "0 CURRENT v1, complete")
		began := time.Now()
		h.Hint("it", store, "a") // due a second after the read before
		w.set("a", "v2")
		h.Loaded(cache.Load{Key: cache.Key{Integration: "it", Revision: "1", Store: store, Name: "a"}, Concerns: func(string) bool { return true }, Version: "v1", ReadAt: began.Add(-time.Millisecond)})
		expect(t, s, 2*time.Second, "0 CHANGED v2")
	})
}

// TestOtherStores: after an integration's stores have changed, nothing is told of the
// secrets of the stores before.
func TestOtherStores(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, h *Hub, w *world) {
		w.set("a", "old")
		w.set("b", "same")
		s := open(t, h, alice, Item{Ref: ref("a")}, Item{Ref: ref("b")})
		defer s.Close()
		expect(t, s, time.Second, "0 CURRENT old, 1 CURRENT same, complete")
		time.Sleep(time.Minute)
		w.do(func() { w.revision, w.delay = "2", 2*time.Second })
		w.set("a", "new")
		late := open(t, h, bob, Item{Ref: ref("a"), Known: "new"}, Item{Ref: ref("b")})
		defer late.Close()
		expect(t, late, time.Second, "")
		expect(t, late, 4*time.Second, "0 CURRENT new, 1 CURRENT same, complete")
		expect(t, s, time.Second, "0 CHANGED new", "")

		// The store does not respond at first.
		w.do(func() { w.revision = "3" })
		w.fail("a", secret.ReasonStoreUnavailable)
		h.IntegrationsChanged(nil, []*integration.Integration{{ID: "it", ReadRevision: "3"}})
		expect(t, s, 10*time.Second, "")
		w.set("a", "newer")
		expect(t, s, time.Minute, "0 CHANGED newer", "")
		w.fail("a", secret.ReasonStoreUnavailable)
		w.do(func() { w.revision = "4" })
		h.IntegrationsChanged(nil, []*integration.Integration{{ID: "it", ReadRevision: "4"}})
		expect(t, s, 2*time.Minute, "0 UNREADABLE STORE_UNAVAILABLE", "")
	})
}
