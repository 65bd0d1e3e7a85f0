package watch

import (
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/cache"
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
