package events

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestFair: a source with hints for many secrets, and one whose store hangs, do not delay
// that of another one. Concurrent reads are limited.
func TestFair(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, w *world) {
		flooded, calm, slow := w.add("flooded", "1", "f", vault), w.add("calm", "1", "c", vault), w.add("slow", "1", "s", vault)
		var flood, hanging []provider.EventMessage
		for i := range 300 {
			name := fmt.Sprintf("s%d", i)
			w.hold("flooded", "v1", name)
			w.hold("slow", "v1", name)
			flood = append(flood, provider.EventMessage{Events: []provider.Event{event(name, "")}})
			hanging = append(hanging, flood[i])
		}
		w.hold("calm", "v1", "db")
		w.do(func() { w.delay["slow"], w.delay["flooded"] = time.Hour, 100*time.Millisecond })
		time.Sleep(time.Minute)
		w.taken()
		flooded.Send(flood...)
		slow.Send(hanging...)
		time.Sleep(2 * time.Second)
		w.rotate("db", "v2")
		calm.SendEvent(event("db", "v2"))
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		w.do(func() {
			if w.held["calm db"] != "v2" {
				t.Error("the secret was not read within half a second")
			}
			if w.most > 2*maxLaneReads+1 {
				t.Errorf("%d concurrent reads", w.most)
			}
		})
	})
}

// TestCentral: a central source hints the integrations that it is for, if both have the
// store.
func TestCentral(t *testing.T) {
	const other = "https://other.vault.azure.net"
	simulated(t, Config{}, func(t *testing.T, w *world) {
		q := w.add("file", "1", "queue", vault)
		w.central(func(id string) bool { return strings.HasPrefix(id, "team-") })
		w.add("team-a", "1", "", vault, other)
		w.add("team-b", "1", "", other)
		w.add("alien", "1", "", vault)
		for _, id := range []string{"team-a", "team-b", "alien", "file"} {
			w.hold(id, "v1", "db")
		}
		time.Sleep(time.Minute)
		w.taken()
		q.SendEvent(event("db", "v2"))
		foreign := event("db", "v2")
		foreign.Store = other
		q.SendEvent(foreign)
		w.rotate("db", "v2")
		w.expect(t, 10*time.Second, "0s team-a db")
		w.add("team-c", "1", "", vault)
		w.hold("team-c", "v2", "db")
		w.rotate("db", "v3")
		q.SendEvent(event("db", "v3"))
		time.Sleep(10 * time.Second)
		if got := w.taken(); len(got) != 2 {
			t.Errorf("reads %q", got)
		}
		if s := w.receiver.Status(); len(s) != 1 || !s[0].Central || w.counts("file") != "foreign_store 1 read 2 " {
			t.Errorf("%+v, counts %q", s, w.counts("file"))
		}
	})
}

// TestSecretsOfAnotherKind: an event of a central source does not concern an integration of
// another kind with a store of the same name.
func TestSecretsOfAnotherKind(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, w *world) {
		q := w.add("file", "1", "queue", vault)
		w.central(func(string) bool { return true })
		w.do(func() {
			w.in["vault"] = &integration.Integration{ID: "vault", Kind: secret.KindHashiCorpVault, Settings: &settings{stores: []string{vault}}}
		})
		w.hold("vault", "v1", "db")
		time.Sleep(time.Minute)
		q.SendEvent(event("db", "v2"))
		w.expect(t, 10*time.Second)
	})
}
