package watch

import (
	"context"
	"fmt"
	"slices"
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
	alice = authz.Principal("dns:alice.example.org")
	bob   = authz.Principal("dns:bob.example.org")
	store = "https://my-vault.vault.azure.net"
	ttl   = 5 * time.Minute
)

func ref(name string) secret.Ref {
	r, err := secret.ParseRef(store + "::" + name)
	if err != nil {
		panic(err)
	}
	return r
}

// world is a Reader: the integrations, their grants, and a store.
type world struct {
	mu       sync.Mutex
	denied   map[authz.Principal]bool
	gone     map[string]bool // integrations
	noPolicy bool            // no decision is possible
	revision string
	content  map[string]cache.Load // by name
	delay    time.Duration
	reads    map[string]int
	callers  []authz.Principal
	running  int
	most     int
}

func newWorld() *world {
	return &world{denied: map[authz.Principal]bool{}, gone: map[string]bool{}, content: map[string]cache.Load{}, reads: map[string]int{}, revision: "1"}
}

func (w *world) Decide(who authz.Principal, id string, _ secret.Ref) Decision {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.noPolicy:
		return Decision{Unreadable: secret.Errorf(secret.ReasonRegistryUnavailable, "no"), Temporary: true}
	case w.denied[who], w.gone[id]:
		return Decision{Denied: secret.Errorf(secret.ReasonAccessDenied, "no")}
	case strings.HasPrefix(id, "dynamic"):
		return Decision{Unreadable: secret.Errorf(secret.ReasonSecretNotWatchable, "no")}
	}
	return Decision{ReadRevision: w.revision, Store: store, Interval: ttl}
}

func (w *world) Read(ctx context.Context, caller authz.Principal, id string, ref secret.Ref, _ bool) (cache.Load, bool) {
	w.mu.Lock()
	began := time.Now()
	w.reads[ref.Name]++
	w.callers = append(w.callers, caller)
	w.running++
	w.most = max(w.most, w.running)
	delay := w.delay
	w.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running--
	load, ok := w.content[ref.Name]
	if !ok {
		load.Err = secret.Errorf(secret.ReasonSecretNotFound, "no")
	}
	load.ReadAt = began
	load.Key = cache.Key{Integration: id, Revision: w.revision, Store: ref.Store, Name: ref.Name}
	return load, !w.gone[id]
}

func (w *world) do(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

func (w *world) set(name, version string) {
	w.do(func() { w.content[name] = cache.Load{Version: version} })
}

func (w *world) fail(name string, reason secret.Reason) {
	w.do(func() { w.content[name] = cache.Load{Err: secret.Errorf(reason, "no")} })
}

func (w *world) readsOf(name string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reads[name]
}

// simulated runs a test with a Hub that runs, in a bubble.
func simulated(t *testing.T, cfg Config, test func(t *testing.T, h *Hub, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		h := New(cfg)
		h.SetReader(w)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = h.Run(ctx) })
		test(t, h, w)
		cancel()
		running.Wait()
		if s := h.Stats(); s.Items != 0 || s.Secrets != 0 || s.Principals != 0 || len(h.due) != 0 || len(h.lanes)+len(h.of)+len(h.loads) != 0 {
			t.Errorf("something is left: %+v, %d due, %d lanes", s, len(h.due), len(h.lanes))
		}
	})
}

func open(t *testing.T, h *Hub, who authz.Principal, items ...Item) *Stream {
	t.Helper()
	for i := range items {
		if items[i].IntegrationID == "" {
			items[i].IntegrationID = "it"
		}
	}
	s, err := h.Open(who, items)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close) // a second time
	return s
}

// next returns the notices of one Next as text, "" if there are none within d.
func next(t *testing.T, s *Stream, d time.Duration) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	notices, complete, err := s.Next(ctx)
	if err != nil {
		return ""
	}
	var texts []string
	for _, n := range notices {
		text := fmt.Sprintf("%d %s %s", n.Item, n.State, n.Version)
		if n.Err != nil {
			text += string(n.Err.Reason)
		}
		texts = append(texts, text)
	}
	slices.Sort(texts)
	if complete {
		texts = append(texts, "complete")
	}
	return strings.Join(texts, ", ")
}

func expect(t *testing.T, s *Stream, d time.Duration, want ...string) {
	t.Helper()
	for _, w := range want {
		if got := next(t, s, d); got != w {
			t.Errorf("got %q, want %q", got, w)
		}
	}
}

// TestFirstState: the first notice depends on the version that the caller has.
func TestFirstState(t *testing.T) {
	simulated(t, Config{Splay: time.Minute}, func(t *testing.T, h *Hub, w *world) {
		w.set("a", "1")
		s := open(t, h, alice, Item{Ref: ref("a"), Known: "1"}, Item{Ref: ref("a"), Known: "0"}, Item{Ref: ref("a")}, Item{Ref: ref("none")}, Item{Ref: ref("x"), IntegrationID: "dynamic"})
		defer s.Close()
		var got string
		for range 3 {
			if got += next(t, s, time.Second) + ", "; strings.Contains(got, "complete") {
				break
			}
		}
		for _, part := range []string{"0 CURRENT 1", "1 CHANGED 1", "2 CURRENT 1", "3 UNREADABLE SECRET_NOT_FOUND", "4 UNREADABLE SECRET_NOT_WATCHABLE", "complete"} {
			if strings.Count(got, part) != 1 {
				t.Errorf("%q is not in %q once", part, got)
			}
		}
		expect(t, s, time.Hour, "")
		if n := w.readsOf("x"); n != 0 {
			t.Errorf("a secret that a read creates was read %d times", n)
		}
	})
}

// TestManyRotationsAreOneNotice: however often a secret changes while the caller does not
// read, it is told the last version, once.
func TestManyRotationsAreOneNotice(t *testing.T) {
	var changed []string
	cfg := Config{Changed: func(id, store, name string) { changed = append(changed, id+" "+store+" "+name) }}
	simulated(t, cfg, func(t *testing.T, h *Hub, w *world) {
		w.set("a", "1")
		s := open(t, h, alice, Item{Ref: ref("a")})
		defer s.Close()
		expect(t, s, time.Second, "0 CURRENT 1, complete")
		for i := range 100 {
			w.set("a", fmt.Sprint(i+2))
			h.Hint("it", store, "a")
			time.Sleep(2 * time.Second)
		}
		if n := w.readsOf("a"); n < 101 {
			t.Fatalf("only %d reads", n)
		}
		expect(t, s, time.Minute, "0 CHANGED 101", "")
		if len(changed) != 100 || changed[0] != "it "+store+" a" {
			t.Errorf("%d changes, %q", len(changed), changed[:1])
		}
		w.set("a", "200")
		h.Hint("it", store, "a")
		time.Sleep(2 * time.Second)
		w.set("a", "101") // there and back
		h.Hint("it", store, "a")
		time.Sleep(2 * time.Second)
		expect(t, s, time.Minute, "")
	})
}

// TestOneReadPerTTL: a secret is read once per time-to-live, however many watch it, not
// after the last has gone, and later if somebody else reads it.
func TestOneReadPerTTL(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, h *Hub, w *world) {
		w.set("a", "1")
		var streams []*Stream
		for i := range 100 {
			who := alice
			if i%2 > 0 {
				who = bob
			}
			s := open(t, h, who, Item{Ref: ref("a")})
			streams = append(streams, s)
			expect(t, s, time.Second, "0 CURRENT 1, complete")
		}
		time.Sleep(100 * ttl)
		if n := w.readsOf("a"); n < 100 || n > 113 {
			t.Errorf("%d reads within 100 times to live", n)
		}
		loaded := func(version string) {
			h.Loaded(cache.Load{Key: cache.Key{Integration: "it", Revision: "1", Store: store, Name: "a"}, Concerns: func(suffix string) bool { return suffix == "" }, Version: version, ReadAt: time.Now()})
		}
		loaded("1")
		before := w.readsOf("a")
		for range 100 { // Resolve reads it all the time
			time.Sleep(ttl / 4)
			loaded("1")
		}
		if n := w.readsOf("a"); n != before {
			t.Errorf("%d reads beside those of others", n-before)
		}
		loaded("2")
		for _, s := range streams {
			expect(t, s, time.Second, "0 CHANGED 2")
			s.Close()
		}
		before = w.readsOf("a")
		time.Sleep(10 * ttl)
		if n := w.readsOf("a"); n != before {
			t.Errorf("%d reads without a watcher", n-before)
		}
	})
}

// TestHintsAreBounded: hints cause one read a second, and a hint during a read another one
// after it.
func TestHintsAreBounded(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, h *Hub, w *world) {
		w.set("a", "1")
		s := open(t, h, alice, Item{Ref: ref("a")})
		defer s.Close()
		expect(t, s, time.Second, "0 CURRENT 1, complete")
		time.Sleep(time.Minute)
		before := w.readsOf("a")
		for range 10_000 {
			h.Hint("it", store, "a")
			h.Hint("it", store, "")
			h.Hint("it", store, "b")
			h.Hint("other", store, "a")
			time.Sleep(time.Millisecond)
		}
		if n := w.readsOf("a") - before; n < 9 || n > 11 {
			t.Errorf("%d reads in 10 s of hints", n)
		}
		w.do(func() { w.delay = 3 * time.Second })
		time.Sleep(5 * time.Second)
		h.Hint("it", store, "a")
		time.Sleep(time.Second) // the read is under way
		before = w.readsOf("a")
		w.set("a", "2")
		h.Hint("it", store, "a")
		time.Sleep(10 * time.Second)
		if n := w.readsOf("a") - before; n != 1 {
			t.Errorf("%d reads after a hint during a read", n)
		}
		expect(t, s, time.Second, "0 CHANGED 2")
	})
}

// TestLostAndReturnedGrant: a caller that loses its grant is told once, without a version,
// and nothing more until it gets the grant back.
func TestLostAndReturnedGrant(t *testing.T) {
	simulated(t, Config{Splay: time.Hour}, func(t *testing.T, h *Hub, w *world) {
		w.set("a", "1")
		s, other := open(t, h, alice, Item{Ref: ref("a")}), open(t, h, bob, Item{Ref: ref("a")})
		defer s.Close()
		defer other.Close()
		expect(t, s, time.Second, "0 CURRENT 1, complete")
		expect(t, other, time.Second, "0 CURRENT 1, complete")
		changed := func() { h.IntegrationsChanged(nil, []*integration.Integration{{ID: "it", ReadRevision: "1"}}) }
		w.do(func() { w.denied[alice] = true })
		changed()
		expect(t, s, time.Second, "0 DENIED ACCESS_DENIED")
		w.set("a", "2")
		h.Hint("it", store, "a")
		changed()
		expect(t, s, 10*ttl, "")
		expect(t, other, time.Hour, "0 CHANGED 2", "")
		if got := h.Users("it"); len(got) != 1 || got[0] != bob {
			t.Errorf("users %v", got)
		}
		w.do(func() { w.denied[alice] = false })
		changed()
		expect(t, s, time.Second, "0 CHANGED 2", "")
		// And with the same version.
		w.do(func() { w.denied[alice] = true })
		h.DecisionsChanged()
		expect(t, s, time.Second, "0 DENIED ACCESS_DENIED")
		w.do(func() { w.denied[alice] = false })
		h.DecisionsChanged()
		expect(t, s, time.Second, "0 CHANGED 2", "")
	})
}

// TestNoNoticeAfterLoss: a change that was noticed before the grant was lost is not told
// after it.
func TestNoNoticeAfterLoss(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, h *Hub, w *world) {
		w.set("a", "1")
		s := open(t, h, alice, Item{Ref: ref("a")})
		defer s.Close()
		expect(t, s, time.Second, "0 CURRENT 1, complete")
		w.set("a", "2")
		h.Hint("it", store, "a")
		time.Sleep(2 * time.Second)
		w.do(func() { w.denied[alice] = true }) // and no call of IntegrationsChanged
		expect(t, s, time.Second, "0 DENIED ACCESS_DENIED", "")
	})
}

// TestDeniedCausesNoReads: a caller that may not watch does not make the broker read.
func TestDeniedCausesNoReads(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, h *Hub, w *world) {
		w.do(func() { w.denied[alice] = true })
		s := open(t, h, alice, Item{Ref: ref("a")})
		defer s.Close()
		expect(t, s, time.Second, "0 DENIED ACCESS_DENIED, complete")
		h.Hint("it", store, "a")
		time.Sleep(ttl * 3)
		if n := w.readsOf("a"); n != 0 {
			t.Errorf("%d reads", n)
		}
	})
}

// TestDeletedAndBack: an integration that is deleted looks like one that the caller may not
// use. When it is back, with another way to read, its secrets are read again.
func TestDeletedAndBack(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, h *Hub, w *world) {
		w.set("a", "1")
		s := open(t, h, alice, Item{Ref: ref("a")})
		defer s.Close()
		expect(t, s, time.Second, "0 CURRENT 1, complete")
		it := &integration.Integration{ID: "it", ReadRevision: "2"}
		w.do(func() { w.gone["it"] = true })
		h.IntegrationsChanged([]*integration.Integration{it}, nil)
		expect(t, s, time.Second, "0 DENIED ACCESS_DENIED", "")
		w.set("a", "2")
		w.do(func() { w.gone["it"], w.revision = false, "2" })
		h.IntegrationsChanged(nil, []*integration.Integration{it})
		expect(t, s, time.Second, "0 CHANGED 2", "")
		w.set("a", "3") // another store, say
		w.do(func() { w.revision = "3" })
		h.IntegrationsChanged(nil, []*integration.Integration{{ID: "it", ReadRevision: "3"}})
		expect(t, s, 5*time.Second, "0 CHANGED 3")
	})
}
