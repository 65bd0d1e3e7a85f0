package watch

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/cache"
)

// TestFormsOfAReference: references to one secret in several forms are targets of their own,
// and all learn from one load, which has the canonical name of the store and may concern only
// one of them.
func TestFormsOfAReference(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, h *Hub, w *world) {
		const other = "https://MY-VAULT.vault.azure.net:443"
		first, second, suffixed := ref("a"), ref("a"), ref("a")
		second.Store = other // world.Decide returns store for both
		suffixed.Suffix = "x"
		w.set("a", "1")
		s := open(t, h, alice, Item{Ref: first}, Item{Ref: second}, Item{Ref: suffixed})
		defer s.Close()
		expect(t, s, time.Second, "0 CURRENT 1, 1 CURRENT 1, 2 CURRENT 1, complete")
		if n := h.Stats().Secrets; n != 3 {
			t.Errorf("%d targets", n)
		}
		key := cache.Key{Integration: "it", Revision: "1", Store: store, Name: "a"}
		h.Loaded(cache.Load{Key: key, Concerns: func(suffix string) bool { return suffix == "" }, Version: "2", ReadAt: time.Now()})
		expect(t, s, time.Second, "0 CHANGED 2, 1 CHANGED 2", "")
		key.Store = other // not the name under which the cache keeps it
		h.Loaded(cache.Load{Key: key, Concerns: func(string) bool { return true }, Version: "3", ReadAt: time.Now()})
		expect(t, s, time.Second, "")
		w.do(func() { w.denied[alice] = true })
		h.DecisionsChanged()
		expect(t, s, time.Second, "0 DENIED ACCESS_DENIED, 1 DENIED ACCESS_DENIED, 2 DENIED ACCESS_DENIED")
		if len(h.loads) != 0 {
			t.Errorf("%d loads are still awaited", len(h.loads))
		}
	})
}

// TestReadsAreFairBetweenPrincipals: a principal that watches many secrets does not delay
// the reads of the secret that another one watches, first or later ones.
func TestReadsAreFairBetweenPrincipals(t *testing.T) {
	simulated(t, Config{MaxReadsPerSecond: 4, MaxItemsPerPrincipal: 2000, MaxSecretsPerPrincipal: 2000}, func(t *testing.T, h *Hub, w *world) {
		var many []Item
		for i := range 2000 {
			many = append(many, Item{Ref: ref(fmt.Sprint("many-", i))})
		}
		hog := open(t, h, alice, many...)
		defer hog.Close()
		go func() {
			for {
				if _, _, err := hog.Next(t.Context()); err != nil {
					return
				}
			}
		}()
		time.Sleep(ttl + time.Minute) // the first reads alone take 500 s
		w.set("a", "1")
		s := open(t, h, bob, Item{Ref: ref("a")}, Item{Ref: ref("many-7")})
		defer s.Close()
		expect(t, s, 2*time.Second, "1 UNREADABLE SECRET_NOT_FOUND", "0 CURRENT 1, complete")
		w.set("a", "2")
		expect(t, s, ttl+2*time.Second, "0 CHANGED 2")
		s.Close()
		hog.Close()
		time.Sleep(time.Minute) // the Hub forgets the reads that wait
	})
}

// TestQueueIsBounded: a principal that opens streams again and again, with new secrets of a
// store that hangs, leaves little behind.
func TestQueueIsBounded(t *testing.T) {
	simulated(t, Config{MaxSecretsPerPrincipal: 100}, func(t *testing.T, h *Hub, w *world) {
		w.delay = time.Hour
		for i := range 40 {
			var items []Item
			for k := range 100 {
				items = append(items, Item{Ref: ref(fmt.Sprintf("s-%d-%d", i, k))})
			}
			s := open(t, h, alice, items...)
			if got := next(t, s, time.Millisecond); got != "" {
				t.Fatal(got)
			}
			s.Close()
		}
		h.mu.Lock()
		for _, l := range h.lanes {
			if n := len(l.waiting[alice]); n > 2*100 {
				t.Errorf("%d reads wait", n)
			}
		}
		h.mu.Unlock()
		time.Sleep(time.Minute) // the reads end, and the Hub forgets those that wait
	})
}

// TestSmallPrincipalsHaveRoom: principals with many items cannot take all of what there is.
func TestSmallPrincipalsHaveRoom(t *testing.T) {
	simulated(t, Config{MaxItems: 640, MaxItemsPerPrincipal: 200}, func(t *testing.T, h *Hub, _ *world) {
		items := make([]Item, 20)
		for i := range items {
			items[i] = Item{IntegrationID: "it", Ref: ref("a")}
		}
		var refused *LimitError
		var open []*Stream
		for i := 0; refused == nil; i++ {
			s, err := h.Open(authz.Principal(fmt.Sprint("dns:hog-", i/10)), items)
			if err != nil {
				refused, _ = errors.AsType[*LimitError](err)
				continue
			}
			open = append(open, s)
		}
		if refused.Setting != "watch.max_items" || len(open)*20 != 560 {
			t.Errorf("%v after %d items", refused, len(open)*20)
		}
		s, err := h.Open(bob, items[:10])
		if err != nil {
			t.Error(err)
		} else {
			s.Close()
		}
		for s := range slices.Values(open) {
			s.Close()
		}
	})
}

// TestIntegrationReadsAnotherStore: if an integration changes how it reads, what it reads is
// read again at once, without a change of the access.
func TestIntegrationReadsAnotherStore(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, h *Hub, w *world) {
		w.set("a", "1")
		s := open(t, h, alice, Item{Ref: ref("a")})
		defer s.Close()
		expect(t, s, time.Second, "0 CURRENT 1, complete")
		time.Sleep(2 * minReadInterval)
		w.set("a", "another")
		h.DecisionsChanged() // nothing has changed
		expect(t, s, time.Second, "")
		w.do(func() { w.revision = "2" })
		h.DecisionsChanged()
		expect(t, s, time.Second, "0 CHANGED another")
		if n := w.readsOf("a"); n != 2 {
			t.Errorf("%d reads", n)
		}
	})
}
