package resolve_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// fakeTurn is a resolve.Turn.
type fakeTurn struct {
	err error

	mu    sync.Mutex
	taken int
	held  bool
	left  chan struct{} // closed by Leave
}

func newFakeTurn() *fakeTurn { return &fakeTurn{left: make(chan struct{})} }

func (f *fakeTurn) Take(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil && !f.held {
		f.taken++
		f.held = true
	}
	return f.err
}

func (f *fakeTurn) Leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.held {
		f.held = false
		close(f.left)
	}
}

func (f *fakeTurn) isHeld() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held
}

// turnAudit fails the test if a call waits for the audit log during its turn.
type turnAudit struct {
	resolve.AuditLog
	t    *testing.T
	turn *fakeTurn
}

func (a *turnAudit) Begin(events []audit.Event) (audit.Receipt, audit.Position, error) {
	if a.turn.isHeld() {
		a.t.Error("the call waits for the audit log during its turn")
	}
	return a.AuditLog.Begin(events)
}

// TestTurn: calls with many configs, or with several secrets to read, take a turn, and leave
// it before they wait.
func TestTurn(t *testing.T) {
	plain := func(n int) map[string]string {
		m := make(map[string]string)
		for i := range n {
			m[string(rune('a'+i))] = vault + "::plain"
		}
		return m
	}
	for _, tt := range []struct {
		name    string
		configs map[string]string
		taken   int
	}{
		{"few configs of one secret", plain(8), 0},
		{"many configs of one secret", plain(9), 1},
		{"two secrets to read", map[string]string{"a": vault + "::plain", "b": vault + "::db-secret"}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			turn := newFakeTurn()
			b.broken.AuditLog = &turnAudit{b.broken.AuditLog, t, turn}
			reading := make(chan struct{}, len(tt.configs))
			b.store.onFetch = func() {
				reading <- struct{}{}
				if tt.taken == 0 {
					return
				}
				select { // the call leaves its turn while it waits for the store
				case <-turn.left:
				case <-time.After(10 * time.Second):
					t.Error("the call waits for a store during its turn")
				}
			}
			res, err := b.Resolve(t.Context(), resolve.Caller{Principal: worker, Turn: turn}, resolve.Request{ID: "r", IntegrationID: "cspi", Configs: tt.configs})
			if err != nil || len(res.Configs) != len(tt.configs) || len(reading) == 0 {
				t.Fatalf("%+v, %v, %d reads", res, err, len(reading))
			}
			res.Wipe()
			if turn.taken != tt.taken || turn.isHeld() {
				t.Errorf("taken %d times, held %v", turn.taken, turn.isHeld())
			}
		})
	}
}

// TestNoTurn: a call that gets no turn is refused.
func TestNoTurn(t *testing.T) {
	b := newBench(t)
	turn := newFakeTurn()
	turn.err = secret.Errorf(secret.ReasonOverloaded, "busy")
	who := resolve.Caller{Principal: worker, Turn: turn}
	_, err := b.Resolve(t.Context(), who, resolve.Request{ID: "r", IntegrationID: "cspi", Configs: many(9)})
	if err == nil || secret.AsError(err).Reason != secret.ReasonOverloaded {
		t.Errorf("with many configs: %v", err)
	}
	reports, err := b.Check(t.Context(), who, resolve.Request{ID: "r", IntegrationID: "cspi", Configs: map[string]string{"a": vault + "::plain", "b": vault + "::db-secret"}})
	if err != nil || len(reports) != 2 {
		t.Fatalf("%+v, %v", reports, err)
	}
	for _, r := range reports {
		if r.Err == nil || r.Err.Reason != secret.ReasonOverloaded {
			t.Errorf("%s: %v", r.Config, r.Err)
		}
	}
}
