package events

import (
	"fmt"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/events/eventstest"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestMissed: a source that works and delivers no events about changes is silent, until it
// delivers one. A change that an event or another replica explains does not count, nor one
// while the source fails.
func TestMissed(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, w *world) {
		q := w.add("one", "1", "queue", vault)
		w.hold("one", "v1", "a", "b", "c")
		changed := func(names ...string) {
			for _, name := range names {
				w.receiver.Changed("one", vault, name)
			}
		}
		check := func(what string, missed uint64, silent bool) {
			t.Helper()
			time.Sleep(5 * time.Minute)
			s := w.status(t, "one")
			if s.Missed != missed || s.Silent != silent || (missed > 0) == s.MissedAt.IsZero() {
				t.Errorf("%s: %+v", what, s)
			}
			if ps := w.receiver.Problems(); (len(ps) == 1 && ps[0].Reason == SourceSilent) != silent {
				t.Errorf("%s: %v", what, ps)
			}
		}
		changed("a", "b", "c")
		check("just started", 0, false)
		q.SendEvent(event("a", "v2"))
		time.Sleep(time.Minute)
		changed("a")
		changed("b")
		time.Sleep(time.Minute)
		q.SendEvent(event("b", "v2"))
		changed("c")
		w.receiver.SeenElsewhere("one", vault, "c")
		check("explained", 0, false)
		w.receiver.Changed("other", vault, "a")
		w.receiver.Changed("one", "https://other.vault.azure.net", "a")
		check("of another integration or store", 0, false)
		changed("a")
		check("one", 1, false)
		changed("b")
		check("two", 2, true)
		q.SendEvent(event("not-held", "v2"))
		check("an event about nothing that is held", 2, true)
		q.SendEvent(event("c", "v2"))
		check("it delivers again", 2, false)
		q.Fail(secret.Errorf(secret.ReasonStoreUnavailable, "no route"), nil)
		changed("a", "b", "c")
		time.Sleep(5 * time.Minute)
		if s := w.status(t, "one"); s.Missed != 2 || s.Problem == "" {
			t.Errorf("%+v", s)
		}
		if counts, missed := w.receiver.Totals(); missed != 2 || counts[NotHeld] != 1 || counts[Read] != 3 {
			t.Errorf("totals %v, %d", counts, missed)
		}
	})
}

// TestMissedIsBounded: changes without a source, and many of them, cost little memory.
func TestMissedIsBounded(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, w *world) {
		for i := range 10 * maxExpected {
			w.receiver.Changed("none", vault, fmt.Sprint(i))
		}
		m := w.receiver.misses
		m.mu.Lock()
		n := len(m.expected)
		m.mu.Unlock()
		if n != maxExpected {
			t.Errorf("%d changes are in memory", n)
		}
		time.Sleep(5 * time.Minute)
		m.mu.Lock()
		defer m.mu.Unlock()
		if len(m.expected)+len(m.heard) != 0 {
			t.Errorf("%d changes remain", len(m.expected))
		}
	})
}

// accountSettings are settings of an integration in an account, whose store has two names: one that
// each account uses for its own, and one that is the same for all.
type accountSettings struct {
	settings
	id string
}

func (a *accountSettings) Aliases(store string) []string {
	if store == "endpoint" || store == "arn:"+a.id {
		return []string{"endpoint", "arn:" + a.id}
	}
	return []string{store}
}

func (a *accountSettings) Canonical(store string) string { return a.Aliases(store)[0] }

// TestMissedOfAnAccount: a change without an event concerns the central sources that have the
// store by any of its names, and not that of another account, whose store has the same name.
func TestMissedOfAnAccount(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, w *world) {
		of := func(id, number string, stores ...string) *integration.Integration {
			w.queues[id] = eventstest.NewQueue()
			return &integration.Integration{ID: id, Kind: secret.KindAzureKeyVault, Settings: &accountSettings{settings{stores, id}, number}}
		}
		var central []Central
		w.do(func() {
			for _, in := range []*integration.Integration{of("own", "1", "endpoint", "arn:1"), of("other", "2", "endpoint", "arn:2"), of("security", "3", "arn:1", "arn:2")} {
				central = append(central, Central{in, func(string) bool { return true }})
			}
			w.in["one"] = of("one", "1", "endpoint", "arn:1")
			w.in["one"].Settings.(*accountSettings).source = ""
		})
		w.receiver.SetCentral(central)
		time.Sleep(5 * time.Minute)
		w.receiver.Changed("one", "endpoint", "a")
		time.Sleep(5 * time.Minute)
		for id, missed := range map[string]uint64{"own": 1, "other": 0, "security": 1} {
			if s := w.status(t, id); s.Missed != missed {
				t.Errorf("%+v", s)
			}
		}
		if got := w.receiver.StatusOf(w.in["one"]); len(got) != 2 || got[0].IntegrationID != "own" || got[1].IntegrationID != "security" {
			t.Errorf("%+v", got)
		}
	})
}

// TestChangesOfMany: the changes of so many secrets that their reads begin minutes after the
// events are not missed.
func TestChangesOfMany(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, w *world) {
		q := w.add("one", "1", "queue", vault)
		var all []provider.EventMessage
		for i := range 50 {
			name := fmt.Sprint(i)
			w.hold("one", "v1", name)
			w.rotate(name, "v2")
			all = append(all, provider.EventMessage{Events: []provider.Event{event(name, "v2")}})
		}
		w.do(func() { w.delay["one"] = 10 * time.Second })
		time.Sleep(5 * time.Minute)
		q.Send(all...)
		for known := map[string]string{}; len(known) < 50; time.Sleep(time.Second) {
			w.do(func() {
				for name, version := range w.held {
					if version == "v2" && known[name] == "" {
						known[name] = version
						w.receiver.Changed("one", vault, name[len("one "):])
					}
				}
			})
		}
		time.Sleep(5 * time.Minute)
		if s := w.status(t, "one"); s.Missed != 0 || s.Silent {
			t.Errorf("%+v", s)
		}
	})
}
