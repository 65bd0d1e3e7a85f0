package server

import (
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/secretbroker/secretbroker/internal/admission"
	"github.com/secretbroker/secretbroker/internal/budget"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestCallTurn: calls of a principal with few open calls need no slot; others wait for a
// slot and release it once.
func TestCallTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		queue := admission.NewQueue(1)
		account := budget.New(1 << 20).Account("a")
		turnOf := func() *callTurn {
			return &callTurn{account: account, queue: queue, caller: "a", over: prometheus.NewCounter(prometheus.CounterOpts{Name: "over"})}
		}
		account.Open.Store(fewOpen + 1)
		first := turnOf()
		if err := first.Take(t.Context()); err != nil || !first.held.Load() {
			t.Fatalf("held %v, %v", first.held.Load(), err)
		}
		if err := first.Take(t.Context()); err != nil { // it already has a slot
			t.Fatal(err)
		}
		second := turnOf()
		if err := second.Take(t.Context()); err == nil || secret.AsError(err).Reason != secret.ReasonOverloaded || second.held.Load() {
			t.Errorf("held %v, %v", second.held.Load(), err)
		}
		account.Open.Store(fewOpen)
		if err := second.Take(t.Context()); err != nil || second.held.Load() {
			t.Errorf("with few calls open: held %v, %v", second.held.Load(), err)
		}
		second.Leave()
		account.Open.Store(fewOpen + 1)
		first.Leave()
		first.Leave()
		if err := second.Take(t.Context()); err != nil || !second.held.Load() {
			t.Errorf("held %v, %v", second.held.Load(), err)
		}
		second.Leave()
	})
}
