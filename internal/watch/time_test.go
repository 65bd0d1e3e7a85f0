package watch

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestExpiring: the end of a version is told once, before it, or at once if it is near.
func TestExpiring(t *testing.T) {
	simulated(t, Config{ExpiryLead: time.Hour}, func(t *testing.T, h *Hub, w *world) {
		end := time.Now().Add(3 * time.Hour)
		w.do(func() { w.content["a"] = cache.Load{Version: "1", ExpiresAt: end} })
		s := open(t, h, alice, Item{Ref: ref("a")})
		defer s.Close()
		expect(t, s, time.Second, "0 CURRENT 1, complete")
		if got := next(t, s, 4*time.Hour); got != "0 EXPIRING 1" || time.Until(end) != time.Hour {
			t.Errorf("got %q, %v before the end", got, time.Until(end))
		}
		expect(t, s, time.Minute, "")
		w.do(func() { w.content["a"] = cache.Load{Version: "2", ExpiresAt: end.Add(-10 * time.Minute)} })
		h.Hint("it", store, "a")
		expect(t, s, 2*time.Second, "0 CHANGED 2", "0 EXPIRING 2", "")
		w.fail("a", secret.ReasonSecretExpired)
		if got := next(t, s, 4*time.Hour); got != "0 UNREADABLE SECRET_EXPIRED" || time.Until(end) < 9*time.Minute {
			t.Errorf("got %q %v before the first end", got, time.Until(end))
		}
	})
}

// TestOutage: a short outage is not told, a long one once, and its end. A secret that was
// never read is unreadable at once.
func TestOutage(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, h *Hub, w *world) {
		w.set("a", "1")
		w.fail("b", secret.ReasonStoreUnavailable)
		s := open(t, h, alice, Item{Ref: ref("a")})
		defer s.Close()
		expect(t, s, time.Second, "0 CURRENT 1, complete")
		late := open(t, h, alice, Item{Ref: ref("b")})
		defer late.Close()
		expect(t, late, time.Second, "0 UNREADABLE STORE_UNAVAILABLE, complete")
		w.fail("a", secret.ReasonStoreUnavailable)
		h.Hint("it", store, "a")
		expect(t, s, 20*time.Second, "")
		w.set("a", "1")
		expect(t, s, 2*ttl, "")
		w.fail("a", secret.ReasonStoreUnavailable)
		h.Hint("it", store, "a")
		began := time.Now()
		expect(t, s, time.Hour, "0 UNREADABLE STORE_UNAVAILABLE")
		if d := time.Since(began); d < outageTime || d > 2*outageTime {
			t.Errorf("told after %v", d)
		}
		expect(t, s, time.Hour, "")
		w.set("a", "1")
		expect(t, s, 2*ttl, "0 CURRENT 1", "")
	})
}

// TestNoDecision: while no decision is possible, the state is unreadable, and known again
// when a decision is possible.
func TestNoDecision(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, h *Hub, w *world) {
		w.set("a", "1")
		s := open(t, h, alice, Item{Ref: ref("a")})
		defer s.Close()
		expect(t, s, time.Second, "0 CURRENT 1, complete")
		w.do(func() { w.noPolicy = true })
		w.fail("a", secret.ReasonRegistryUnavailable)
		expect(t, s, 3*ttl, "0 UNREADABLE REGISTRY_UNAVAILABLE")
		late := open(t, h, alice, Item{Ref: ref("b")})
		defer late.Close()
		expect(t, late, time.Second, "0 UNREADABLE REGISTRY_UNAVAILABLE, complete")
		w.do(func() { w.noPolicy = false })
		w.set("a", "2")
		w.set("b", "1")
		expect(t, s, 2*ttl, "0 CHANGED 2", "")
		expect(t, late, time.Minute, "0 CURRENT 1")
	})
}

// TestSplay: the notices of one change are spread over the splay; those of one stream come
// together.
func TestSplay(t *testing.T) {
	simulated(t, Config{Splay: 10 * time.Second}, func(t *testing.T, h *Hub, w *world) {
		w.set("a", "1")
		w.set("b", "1")
		const n = 200
		at := make([]time.Duration, n)
		var running sync.WaitGroup
		var began time.Time
		for i := range n {
			s := open(t, h, alice, Item{Ref: ref("a")}, Item{Ref: ref("b")})
			running.Go(func() {
				defer s.Close()
				for !strings.Contains(next(t, s, time.Minute), "complete") {
				}
				if got := next(t, s, time.Minute); got != "0 CHANGED 2, 1 CHANGED 2" {
					t.Errorf("got %q", got)
				}
				at[i] = time.Since(began)
			})
		}
		time.Sleep(10 * time.Second)
		began = time.Now()
		w.set("a", "2")
		w.set("b", "2")
		h.Hint("it", store, "")
		running.Wait()
		slices.Sort(at)
		if at[0] > time.Second || at[n/2] < 3*time.Second || at[n/2] > 7*time.Second || at[n-1] < 9*time.Second || at[n-1] > 10*time.Second {
			t.Errorf("after %v, %v, %v", at[0], at[n/2], at[n-1])
		}
	})
}

// TestSlowStore: a store that hangs occupies few reads and does not delay another store, and
// principals take turns at a store.
func TestSlowStore(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, h *Hub, w *world) {
		w.do(func() { w.delay = time.Second })
		var many []Item
		for i := range 400 {
			w.set(fmt.Sprintf("a%d", i), "1")
			many = append(many, Item{Ref: ref(fmt.Sprintf("a%d", i))})
		}
		w.set("b", "1")
		s := open(t, h, alice, many...)
		defer s.Close()
		go func() {
			for next(t, s, 2*time.Minute) != "" {
			}
		}()
		time.Sleep(10 * time.Second)
		other := open(t, h, bob, Item{Ref: ref("b")})
		defer other.Close()
		expect(t, other, 3*time.Second, "0 CURRENT 1, complete")
		elsewhere := open(t, h, bob, Item{IntegrationID: "it2", Ref: ref("b")})
		defer elsewhere.Close()
		expect(t, elsewhere, 1100*time.Millisecond, "0 CURRENT 1, complete")
		w.mu.Lock()
		most := w.most
		w.mu.Unlock()
		if most > 2*laneReads {
			t.Errorf("%d concurrent reads", most)
		}
		time.Sleep(230 * time.Second) // all have been read, and none again
	})
}

// TestRate: the reads of the Hub are limited.
func TestRate(t *testing.T) {
	simulated(t, Config{MaxReadsPerSecond: 2}, func(t *testing.T, h *Hub, w *world) {
		var many []Item
		for i := range 60 {
			w.set(fmt.Sprintf("a%d", i), "1")
			many = append(many, Item{Ref: ref(fmt.Sprintf("a%d", i))})
		}
		s := open(t, h, alice, many...)
		defer s.Close()
		began := time.Now()
		for !strings.Contains(next(t, s, time.Hour), "complete") {
		}
		if d := time.Since(began); d < 28*time.Second || d > 35*time.Second {
			t.Errorf("60 reads in %v", d)
		}
	})
}

// TestLimits: each limit refuses with its name, and a closed stream makes room.
func TestLimits(t *testing.T) {
	simulated(t, Config{MaxItems: 11, MaxItemsPerPrincipal: 6, MaxSecretsPerPrincipal: 3}, func(t *testing.T, h *Hub, w *world) {
		items := func(n, secrets int) (all []Item) {
			for i := range n {
				all = append(all, Item{IntegrationID: "it", Ref: ref(fmt.Sprintf("a%d", i%secrets))})
			}
			return all
		}
		refused := func(who authz.Principal, items []Item, setting string) {
			t.Helper()
			_, err := h.Open(who, items)
			if over, ok := errors.AsType[*LimitError](err); !ok || over.Setting != setting {
				t.Errorf("got %v, want %s", err, setting)
			}
		}
		refused(alice, items(4, 4), "watch.max_secrets_per_principal")
		refused(alice, items(7, 1), "watch.max_items_per_principal")
		s := open(t, h, alice, items(6, 3)...)
		refused(alice, items(1, 1), "watch.max_items_per_principal")
		other := open(t, h, bob, items(4, 1)...)
		refused("dns:c.example.org", items(2, 1), "watch.max_items")
		s.Close()
		open(t, h, bob, items(2, 3)...).Close()
		other.Close()
	})
}

// TestManyItems: a thousand items are said in batches, and complete once.
func TestManyItems(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, h *Hub, w *world) {
		var many []Item
		for i := range 450 {
			w.set(fmt.Sprintf("a%d", i), "1")
			many = append(many, Item{Ref: ref(fmt.Sprintf("a%d", i)), Known: "1"})
		}
		s := open(t, h, alice, many...)
		defer s.Close()
		said, done := 0, false
		for !done {
			notices, complete, err := s.Next(t.Context())
			if err != nil || len(notices) > MaxNotices {
				t.Fatal(err, len(notices))
			}
			said += len(notices)
			done = complete
		}
		if said != 450 {
			t.Errorf("%d notices", said)
		}
		expect(t, s, time.Minute, "")
	})
}

// TestSplayUnderChanges: a secret that changes more often than the splay is told within the
// splay of the first change.
func TestSplayUnderChanges(t *testing.T) {
	const splay = 10 * time.Minute
	simulated(t, Config{Splay: splay}, func(t *testing.T, h *Hub, w *world) {
		w.set("a", "0")
		s := open(t, h, alice, Item{Ref: ref("a")})
		defer s.Close()
		s.splay = splay / 2
		expect(t, s, time.Second, "0 CURRENT 0, complete")
		began := time.Now()
		stop := make(chan struct{})
		var changes sync.WaitGroup
		changes.Go(func() {
			for i := 1; ; i++ {
				w.set("a", fmt.Sprint(i))
				h.Hint("it", store, "a")
				select {
				case <-stop:
					return
				case <-time.After(time.Minute):
				}
			}
		})
		for range 2 {
			got := next(t, s, 2*splay)
			if d := time.Since(began); !strings.HasPrefix(got, "0 CHANGED ") || d < splay/2 || d > splay/2+2*time.Minute {
				t.Errorf("got %q after %v", got, d)
			}
			began = time.Now()
		}
		close(stop)
		changes.Wait()
	})
}

// TestShortOutageOfDecisions: an item that was told that no decision is possible is told the
// state when decisions are possible, although its secret and its integration have not changed.
func TestShortOutageOfDecisions(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, h *Hub, w *world) {
		w.set("a", "1")
		s := open(t, h, alice, Item{Ref: ref("a")})
		defer s.Close()
		expect(t, s, time.Second, "0 CURRENT 1, complete")
		w.do(func() { w.noPolicy = true })
		h.DecisionsChanged()
		expect(t, s, time.Second, "0 UNREADABLE REGISTRY_UNAVAILABLE")
		w.do(func() { w.noPolicy = false })
		expect(t, s, 2*retryInterval, "0 CURRENT 1", "")
	})
}

// TestNoDecisionAfterLoss: an outage of decisions does not tell a caller without a grant
// anything, and afterwards a grant that returns is CHANGED, also if the secret cannot be read
// at first.
func TestNoDecisionAfterLoss(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, h *Hub, w *world) {
		w.set("a", "1")
		s := open(t, h, alice, Item{Ref: ref("a")})
		defer s.Close()
		expect(t, s, time.Second, "0 CURRENT 1, complete")
		w.do(func() { w.denied[alice] = true })
		h.DecisionsChanged()
		expect(t, s, time.Second, "0 DENIED ACCESS_DENIED")
		w.do(func() { w.noPolicy = true })
		h.DecisionsChanged()
		expect(t, s, time.Minute, "")
		w.fail("a", secret.ReasonStoreAccessDenied)
		w.do(func() { w.noPolicy, w.denied[alice] = false, false })
		expect(t, s, time.Minute, "0 UNREADABLE STORE_ACCESS_DENIED")
		w.set("a", "1")
		expect(t, s, 2*ttl, "0 CHANGED 1", "")
	})
}

// TestChangeDuringLoss: a change while no caller may watch the secret is in the first notice
// after a grant has returned.
func TestChangeDuringLoss(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, h *Hub, w *world) {
		w.set("a", "1")
		s := open(t, h, alice, Item{Ref: ref("a")})
		defer s.Close()
		expect(t, s, time.Second, "0 CURRENT 1, complete")
		w.do(func() { w.denied[alice] = true })
		h.DecisionsChanged()
		expect(t, s, time.Second, "0 DENIED ACCESS_DENIED")
		w.set("a", "2")
		w.do(func() { w.denied[alice] = false })
		h.DecisionsChanged()
		expect(t, s, time.Second, "0 CHANGED 2", "")
	})
}
