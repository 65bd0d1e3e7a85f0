package events

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestEventIsAHint: an event about a secret that is held causes one read at once, and none
// if the version is known, if the secret is not held or if the store is not the
// integration's. The messages are acknowledged.
func TestEventIsAHint(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, w *world) {
		q := w.add("one", "1", "queue", vault)
		w.hold("one", "v1", "db")
		time.Sleep(time.Minute)
		w.taken()
		w.rotate("db", "v2")
		q.SendEvent(event("db", "v2"))
		w.expect(t, 10*time.Second, "0s one db")
		q.SendEvent(event("db", "v2")) // delivered twice, or a delayed one
		q.SendEvent(event("not-held", "v2"))
		foreign := event("db", "v3")
		foreign.Store = "https://other.vault.azure.net"
		q.SendEvent(foreign)
		q.Send(provider.EventMessage{})
		w.expect(t, 10*time.Second)
		q.SendEvent(event("db", "")) // does not name a version
		w.expect(t, 10*time.Second, "0s one db")
		if got := w.counts("one"); got != "ignored 1 foreign_store 1 not_held 1 known 1 read 2 " {
			t.Errorf("counts %q", got)
		}
		if s := q.Stats(); q.Len() != 0 || s.Acknowledged != 6 || s.Delivered != 6 {
			t.Errorf("%d messages remain, %+v", q.Len(), s)
		}
	})
}

// TestCoalescing: the first hint reads at once, and all others within two seconds cause one
// read at their end. What is not held costs no memory.
func TestCoalescing(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, w *world) {
		q := w.add("one", "1", "queue", vault)
		w.hold("one", "v1", "a", "b")
		time.Sleep(time.Minute)
		w.taken()
		for range 20 {
			q.SendEvent(event("a", ""))
			q.SendEvent(event("b", ""))
			time.Sleep(50 * time.Millisecond)
		}
		w.expect(t, time.Minute, "0s one a", "0s one b", "2s one a", "2s one b")

		flood := make([]provider.EventMessage, 10_000)
		for i := range flood {
			flood[i].Events = []provider.Event{event(fmt.Sprintf("forged-%d", i), "v9")}
		}
		q.Send(flood...)
		w.expect(t, time.Minute)
		if q.Len() != 0 || w.inMemory() != 0 {
			t.Errorf("%d messages remain, %d secrets are in memory", q.Len(), w.inMemory())
		}
	})
}

// TestForgedVersions: a flood of events about one secret with versions that it never has
// causes one read in two seconds while it lasts, and repeats after it.
func TestForgedVersions(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, w *world) {
		q := w.add("one", "1", "queue", vault)
		w.hold("one", "v1", "db")
		time.Sleep(time.Minute)
		w.taken()
		flood := make([]provider.EventMessage, 10_000)
		for i := range flood {
			flood[i].Events = []provider.Event{event("db", fmt.Sprintf("forged-%d", i))}
		}
		q.Send(flood...)
		time.Sleep(2 * time.Minute)
		n, seconds := len(w.taken()), 10_000/(10*receiveRate)
		if most := seconds/2 + 2 + len(repeats); n < seconds/3 || n > most {
			t.Errorf("%d reads, want at most %d", n, most)
		}
		if !strings.Contains(w.counts("one"), "failed 1 ") || w.inMemory() != 0 {
			t.Errorf("counts %q, %d secrets are in memory", w.counts("one"), w.inMemory())
		}
	})
}

// TestStoreIsLate: the read is repeated while the store answers an older version than that
// of the event, and while it does not answer, but not for an old event.
func TestStoreIsLate(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, w *world) {
		q := w.add("one", "1", "queue", vault)
		w.hold("one", "v1", "db")
		time.Sleep(time.Minute)
		w.taken()
		q.SendEvent(event("db", "v2"))
		time.Sleep(5 * time.Second)
		w.rotate("db", "v2")
		w.expect(t, time.Minute, "0s one db", "1s one db", "3s one db", "7s one db")
		q.SendEvent(event("db", "v3"))
		w.expect(t, time.Minute, "0s one db", "1s one db", "3s one db", "7s one db", "15s one db", "30s one db")
		old := event("db", "v4")
		old.At = time.Now().Add(-3 * time.Minute)
		q.SendEvent(old)
		w.expect(t, time.Minute, "0s one db")

		w.do(func() {
			w.failing["db"] = &secret.Error{Reason: secret.ReasonStoreThrottled, Message: "slow down", RetryAfter: 5 * time.Second}
		})
		q.SendEvent(event("db", ""))
		w.expect(t, 8*time.Second, "0s one db", "5s one db")
		w.do(func() { w.failing["db"] = secret.Errorf(secret.ReasonSecretDisabled, "it is disabled") })
		w.expect(t, time.Minute, "2s one db")
		if got := w.counts("one"); got != "read 4 failed 2 " {
			t.Errorf("counts %q", got)
		}
	})
}

// TestForgedEventDoesNotEndRepeats: while the store does not answer the version of an event
// yet, events without a version, and old ones, do not end the repeats. An event without a
// version causes a read although the version is known.
func TestForgedEventDoesNotEndRepeats(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, w *world) {
		q := w.add("one", "1", "queue", vault)
		w.hold("one", "v1", "db")
		time.Sleep(time.Minute)
		w.taken()
		q.SendEvent(event("db", "v2"))
		time.Sleep(500 * time.Millisecond)
		old := event("db", "")
		old.At = time.Now().Add(-time.Hour)
		q.SendEvent(old)
		time.Sleep(4 * time.Second)
		w.rotate("db", "v2")
		w.expect(t, time.Minute, "0s one db", "2s one db", "3s one db", "5s one db")
		q.SendEvent(event("db", "v3"))
		time.Sleep(500 * time.Millisecond)
		w.do(func() { w.held["one db"] = "v3" }) // another read
		q.SendEvent(event("db", ""))             // it was disabled
		w.rotate("db", "v3")
		w.expect(t, time.Minute, "0s one db", "2s one db")
	})
}

// TestDrain: a broker that is about to stop leaves messages in the queue, and its reads
// continue. A read that panics does not end the process.
func TestDrain(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, w *world) {
		q := w.add("one", "1", "queue", vault)
		w.hold("one", "v1", "db", "slow")
		time.Sleep(time.Minute)
		w.taken()
		w.do(func() { w.delay["one"] = 10 * time.Second })
		w.rotate("slow", "v2")
		q.SendEvent(event("slow", "v2"))
		time.Sleep(time.Second)
		w.receiver.Drain()
		q.SendEvent(event("db", "v2"))
		w.add("two", "1", "queue", vault)
		w.expect(t, time.Minute, "0s one slow")
		w.do(func() {
			if w.held["one slow"] != "v2" {
				t.Error("the read was cut")
			}
		})
		if s := q.Stats(); q.Len() != 1 || s.Delivered != 1 || s.Opened != 1 || s.Closed != 1 {
			t.Errorf("%d messages, %+v", q.Len(), s)
		}
		w.receiver.reads.perform = func(context.Context, secretKey, *provider.Event, bool) (result, time.Duration) { panic("a bug") }
		w.receiver.reads.hint(newQueue(func(result) {}), secretKey{integration: "one"}, &provider.Event{}, time.Now())
		time.Sleep(time.Minute)
	})
}

// TestPoison: messages that are not understood, that have too many events or that make the
// source panic do not stop the others. They are acknowledged after three deliveries.
func TestPoison(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, w *world) {
		q := w.add("one", "1", "queue", vault)
		w.hold("one", "v1", "db")
		time.Sleep(time.Minute)
		w.taken()
		all := event("", "")
		many := make([]provider.Event, maxEvents+1)
		q.Send(provider.EventMessage{Problem: "the body is not JSON"}, provider.EventMessage{Events: []provider.Event{{}}},
			provider.EventMessage{Events: []provider.Event{all}}, provider.EventMessage{Events: many})
		q.SendEvent(event("db", "v2"))
		w.rotate("db", "v2")
		w.expect(t, 10*time.Second, "0s one db")
		if q.Len() != 4 {
			t.Errorf("%d messages remain", q.Len())
		}
		q.Panic("index out of range")
		q.SendEvent(event("db", "v3"))
		w.rotate("db", "v3")
		time.Sleep(2 * time.Minute)
		if got := w.taken(); len(got) != 1 {
			t.Errorf("reads %q", got)
		}
		if got := w.counts("one"); q.Len() != 0 || got != "not_understood 4 read 2 " {
			t.Errorf("%d messages remain, counts %q", q.Len(), got)
		}
		if s := q.Stats(); s.Delivered != 4*maxDeliveries+2 {
			t.Errorf("%+v", s)
		}
	})
}

// TestQueueAway: a source that fails is tried again with growing pauses and is opened again,
// says so, and catches up when it is back.
func TestQueueAway(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, w *world) {
		q := w.add("one", "1", "queue", vault)
		w.hold("one", "v1", "db")
		time.Sleep(time.Minute)
		w.taken()
		began := time.Now()
		q.Fail(secret.Errorf(secret.ReasonStoreAccessDenied, "the credential has expired"), nil)
		w.rotate("db", "v2")
		q.SendEvent(event("db", "v2"))
		time.Sleep(10 * time.Minute)
		s := w.status(t, "one")
		if s.Problem != "the credential has expired" || s.Since.Sub(began) > time.Second || s.PolledAt.After(began) {
			t.Errorf("%+v", s)
		}
		if ps := w.receiver.Problems(); len(ps) != 1 || ps[0].Message != "events are not received: one: the credential has expired; secrets are still read once per time-to-live" {
			t.Error(ps)
		}
		if n := q.Stats().Opened; n < 2 || n > 5 {
			t.Errorf("opened %d times", n)
		}
		w.expect(t, 0)
		q.Fail(nil, secret.Errorf(secret.ReasonStoreAccessDenied, "deletion is not permitted"))
		time.Sleep(2 * time.Minute)
		if len(w.taken()) != 1 {
			t.Error("the secret was not read once")
		}
		if s := w.status(t, "one"); s.Problem != "deletion is not permitted" || s.PolledAt.Before(began) {
			t.Errorf("%+v", s)
		}
		q.Fail(nil, nil)
		w.expect(t, 2*time.Minute)
		if s := w.status(t, "one"); s.Problem != "" || !s.Since.IsZero() || q.Len() != 0 || time.Since(s.PolledAt) > time.Minute {
			t.Errorf("%+v, %d messages remain", s, q.Len())
		}
	})
}

// TestHanging: a source that hangs in Receive or Acknowledge says so and delays no other.
func TestHanging(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, w *world) {
		a, b, c := w.add("a", "1", "queue a", vault), w.add("b", "1", "queue b", vault), w.add("c", "1", "queue c", vault)
		w.hold("b", "v1", "db")
		w.hold("c", "v1", "db")
		freeA, freeC := a.Hang(true, false), c.Hang(false, true)
		time.Sleep(time.Minute)
		w.taken()
		c.SendEvent(event("db", "v2"))
		b.SendEvent(event("db", "v2"))
		w.rotate("db", "v2")
		time.Sleep(time.Minute)
		if got := w.taken(); len(got) != 2 {
			t.Errorf("reads %q", got)
		}
		time.Sleep(time.Minute)
		for id, what := range map[string]string{"a": "receiving messages has not ended", "c": "deleting messages has not ended", "b": ""} {
			if s := w.status(t, id); !strings.Contains(s.Problem, what) || (what == "") != (s.Problem == "") || (what == "") != s.Since.IsZero() {
				t.Errorf("%+v", s)
			}
		}
		w.add("a", "2", "queue a", vault) // waits for the end of the old one
		time.Sleep(time.Minute)
		if n := a.Stats().Opened; n != 1 || w.status(t, "a").Problem == "" {
			t.Errorf("opened %d times, %+v", n, w.status(t, "a"))
		}
		freeA()
		freeC()
		time.Sleep(time.Minute)
		if s := a.Stats(); s.Opened != 2 || s.Closed != 1 || w.status(t, "a").Problem+w.status(t, "c").Problem != "" {
			t.Errorf("%+v, %+v", s, w.receiver.Status())
		}
	})
}

// TestIntegrationsChange: a source is opened for a new integration, replaced if what it
// reads by changes, kept if something else changes, and closed with its integration.
func TestIntegrationsChange(t *testing.T) {
	simulated(t, Config{MaxSources: 2}, func(t *testing.T, w *world) {
		q := w.add("one", "1", "queue", vault)
		check := func(opened, closed int) {
			t.Helper()
			time.Sleep(time.Minute)
			if s := q.Stats(); s.Opened != opened || s.Closed != closed {
				t.Errorf("%+v", s)
			}
		}
		check(1, 0)
		w.add("one", "1", "queue", vault)
		check(1, 0)
		w.add("one", "2", "queue", vault)
		check(2, 1)
		if ps := w.receiver.Problems(); len(ps) != 0 {
			t.Error(ps)
		}
		w.add("two", "1", "queue", vault)
		w.add("without", "1", "", vault)
		check(3, 1)
		w.add("earlier", "1", "queue", vault) // takes the place of no running one
		check(3, 1)
		if ps := w.receiver.Problems(); len(ps) != 2 || ps[1].Reason != SourcesUnused || !strings.HasPrefix(ps[1].Message, "1 sources of events are not used") {
			t.Error(ps)
		}
		w.do(func() { delete(w.in, "one") })
		w.receiver.IntegrationsChanged()
		check(4, 2)
		w.add("two", "2", "queue", vault)
		check(5, 3)
		if ps := w.receiver.Problems(); len(ps) != 1 || ps[0].Reason != QueueShared || !strings.Contains(ps[0].Message, ": earlier and two; ") || len(w.receiver.Status()) != 2 {
			t.Error(ps, w.receiver.Status())
		}
	})
}

// TestStop: messages that were received when the broker stops, or while it cannot read its
// integrations, are delivered again.
func TestStop(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, w *world) {
		q := w.add("one", "1", "queue", vault)
		w.hold("one", "v1", "db")
		time.Sleep(time.Minute)
		w.taken()
		w.do(func() { w.unavailable = true })
		w.rotate("db", "v2")
		q.SendEvent(event("db", "v2"))
		w.expect(t, 10*time.Second)
		if s := w.status(t, "one"); s.Problem == "" || q.Len() != 1 {
			t.Errorf("%+v, %d messages remain", s, q.Len())
		}
		w.do(func() { w.unavailable = false })
		time.Sleep(time.Minute)
		if got := w.taken(); len(got) != 1 || q.Len() != 0 {
			t.Errorf("reads %q, %d messages remain", got, q.Len())
		}
	})
	simulated(t, Config{}, func(t *testing.T, w *world) {
		w.add("one", "1", "queue", vault)
		time.Sleep(time.Minute)
		w.receiver.mu.Lock()
		s := w.receiver.sources["integration/one"]
		w.receiver.mu.Unlock()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		message := provider.EventMessage{Events: []provider.Event{event("db", "v2")}}
		if done, _ := s.handleAll(ctx, []provider.EventMessage{message}); len(done) != 0 {
			t.Error("a message that was received while the broker stops is acknowledged")
		}
	})
}
