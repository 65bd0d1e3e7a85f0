package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit/chain"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// memory is a writer that can fail.
type memory struct {
	mu  sync.Mutex
	buf bytes.Buffer
	err error
}

func (m *memory) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return 0, m.err
	}
	return m.buf.Write(p)
}

func (m *memory) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

func (m *memory) len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.buf.Len()
}

// events returns the recorded events.
func (m *memory) events(t *testing.T) (all []Event) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	for line := range bytes.Lines(m.buf.Bytes()) {
		if chain.IsSegmentHeader(line) {
			continue
		}
		var e Event
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

// limited runs f with a Limiter in a bubble, and then stops the Limiter and its Log.
func limited(t *testing.T, f func(t *testing.T, l *Limiter, m *memory)) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		log := New(m)
		l := NewLimiter(log)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- l.Run(ctx) }()
		synctest.Wait()
		f(t, l, m)
		cancel()
		if err := errors.Join(<-ended, log.Close()); err != nil {
			t.Error(err)
		}
	})
}

func refusal(who authz.Principal, integration string, reason secret.Reason) Event {
	return Event{Time: time.Now().UTC(), Principal: who, Method: "Resolve", IntegrationID: integration, Config: "password", Outcome: Denied, Reason: reason}
}

func begins(t *testing.T, l *Limiter, events ...Event) {
	t.Helper()
	if _, _, err := l.Begin(events); err != nil {
		t.Error(err)
	}
}

// TestRefusalsInFull: per second, the first refused call of a principal for each integration
// and reason is recorded in full, with all its configs. One record counts the others.
func TestRefusalsInFull(t *testing.T) {
	limited(t, func(t *testing.T, l *Limiter, m *memory) {
		time.Sleep(10 * time.Millisecond)
		for range 2 {
			for range 10 {
				begins(t, l, refusal("a", "one", "ACCESS_DENIED"), refusal("a", "one", "ACCESS_DENIED"))
				begins(t, l, refusal("a", "two", "ACCESS_DENIED"))
				begins(t, l, refusal("a", "one", "STORE_NOT_ALLOWED"))
			}
			begins(t, l, refusal("b", "one", "ACCESS_DENIED"))
			time.Sleep(countPause)
		}
		full, counted := 0, 0
		for _, e := range m.events(t) {
			if e.Outcome != Counted {
				full++
				continue
			}
			counted++
			if e.Principal != "a" || e.Count.Total != 36 || e.Count.Reasons["ACCESS_DENIED"] != 27 || e.Count.Reasons["STORE_NOT_ALLOWED"] != 9 {
				t.Errorf("counted %+v of %q", e.Count, e.Principal)
			}
			if lag := e.Time.Sub(e.Count.Since); lag <= 0 || lag > countPause {
				t.Errorf("counted after %v", lag)
			}
		}
		if full != 2*(4+1) || counted != 2 || l.Counted() != 72 {
			t.Errorf("%d in full, %d Counted records, %d counted", full, counted, l.Counted())
		}
	})
}

// TestFloodOfRefusals: whatever names the refused calls of a principal carry, they add at
// most MaxRefusalBytes per second to the log, and each of them is recorded or counted.
func TestFloodOfRefusals(t *testing.T) {
	for name, outcome := range map[string]Outcome{"denied": Denied, "rejected": Rejected, "failed": Failed, "withheld": Withheld} {
		t.Run(name, func(t *testing.T) {
			limited(t, func(t *testing.T, l *Limiter, m *memory) {
				const seconds, callsASecond, configs = 3, 100, 16
				long := strings.Repeat(`"`, 256) // escaped to twice the length
				for i := range seconds * callsASecond {
					var events []Event
					for range configs {
						e := refusal("spiffe://example.org/flood", fmt.Sprint("invented-", i), "ACCESS_DENIED")
						e.Outcome, e.Config, e.Connector, e.Reference = outcome, long, long, strings.Repeat("r", 2048)
						events = append(events, e)
					}
					begins(t, l, events...)
					time.Sleep(time.Second / callsASecond)
				}
				time.Sleep(countPause)
				if n := m.len(); n > (seconds+1)*MaxRefusalBytes || n < seconds*MaxRefusalBytes/2 {
					t.Errorf("%d bytes in %d seconds", n, seconds)
				}
				total := uint64(0)
				for _, e := range m.events(t) {
					if e.Outcome == Counted {
						total += e.Count.Total
					} else {
						total++
					}
				}
				if total != seconds*callsASecond*configs {
					t.Errorf("%d refusals in the log, want %d", total, seconds*callsASecond*configs)
				}
			})
		})
	}
}

// TestDeliveredIsRecordedInFull: calls that deliver something, and events passed to Write,
// are always recorded in full.
func TestDeliveredIsRecordedInFull(t *testing.T) {
	for _, outcome := range []Outcome{Served, Checked, Answered, Attempted, Changed} {
		limited(t, func(t *testing.T, l *Limiter, m *memory) {
			const calls = 500
			for range calls {
				e := refusal("a", "one", "ACCESS_DENIED")
				e.Outcome, e.Reference = outcome, strings.Repeat("r", 500)
				begins(t, l, refusal("a", "one", "ACCESS_DENIED"), e)
				if err := l.Write(t.Context(), []Event{refusal("a", "one", "ACCESS_DENIED")}); err != nil {
					t.Error(err)
				}
			}
			if n := len(m.events(t)); n != 3*calls || l.Counted() != 0 {
				t.Errorf("%s: %d records, %d counted", outcome, n, l.Counted())
			}
		})
	}
}

// TestRefuse: Refuse counts like Begin.
func TestRefuse(t *testing.T) {
	limited(t, func(t *testing.T, l *Limiter, m *memory) {
		for range 3 {
			if err := l.Refuse(t.Context(), []Event{refusal("a", "one", "ACCESS_DENIED")}); err != nil {
				t.Error(err)
			}
		}
		if n := len(m.events(t)); n != 1 || l.Counted() != 2 {
			t.Errorf("%d records, %d counted", n, l.Counted())
		}
	})
}

// TestCountsOutliveAFullDisk: counts that could not be written are kept and written later.
func TestCountsOutliveAFullDisk(t *testing.T) {
	limited(t, func(t *testing.T, l *Limiter, m *memory) {
		const calls = 100
		begins(t, l, refusal("a", "one", "ACCESS_DENIED"))
		m.fail(errors.New("no space left on device"))
		failed := 0
		for range calls {
			if _, _, err := l.Begin([]Event{refusal("a", "one", "ACCESS_DENIED")}); err != nil {
				failed++
			}
			time.Sleep(50 * time.Millisecond)
		}
		if failed == 0 {
			t.Error("the disk was not full")
		}
		m.fail(nil)
		time.Sleep(countPause + maxProbe)
		total := uint64(0)
		for _, e := range m.events(t) {
			if e.Outcome == Counted {
				total += e.Count.Total
			}
		}
		if total != uint64(calls-failed) {
			t.Errorf("%d counted, want %d", total, calls-failed)
		}
	})
}

// TestManyRefusedPrincipals: a Limiter tracks maxRefused principals and counts the refusals of
// the others together.
func TestManyRefusedPrincipals(t *testing.T) {
	limited(t, func(t *testing.T, l *Limiter, m *memory) {
		const more = 10
		for i := range maxRefused + more {
			begins(t, l, refusal(authz.Principal(fmt.Sprint("p", i)), "one", "ACCESS_DENIED"))
		}
		l.mu.Lock()
		known := len(l.callers)
		l.mu.Unlock()
		if known > maxRefused+1 {
			t.Errorf("%d principals are tracked", known)
		}
		time.Sleep(countPause + time.Millisecond)
		events := m.events(t)
		last := events[len(events)-1]
		if len(events) != maxRefused+1 || last.Principal != "" || last.Outcome != Counted || last.Count.Total != more {
			t.Errorf("%d records, the last one %+v", len(events), last)
		}
	})
}
