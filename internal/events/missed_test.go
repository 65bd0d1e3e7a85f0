package events

import (
	"fmt"
	"testing"
	"time"

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
