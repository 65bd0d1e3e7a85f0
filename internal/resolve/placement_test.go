package resolve_test

import (
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestPlacement: a caller in the wrong place gets no value, cached or not, and learns the
// reason only if it has a grant.
func TestPlacement(t *testing.T) {
	b := newBench(t)
	ask := resolve.Request{Configs: map[string]string{"p": vault + "::db-secret::password"}}
	if _, err := b.call(worker, ask); err != nil {
		t.Fatal(err)
	}
	b.events(t)
	reads := b.store.reads.Load()
	b.admit = func(_ authz.Principal, in *integration.Integration) string { return "wrong placement for " + in.ID }
	for who, want := range map[authz.Principal]secret.Reason{worker: secret.ReasonPlacementDenied, nobody: secret.ReasonAccessDenied} {
		_, err := b.call(who, ask)
		if err == nil || !strings.Contains(err.Error(), string(want)) || who == nobody && strings.Contains(err.Error(), "place") {
			t.Errorf("%s: %v", who, err)
		}
		for _, e := range b.events(t) {
			if e.Outcome != "denied" || e.Reason != want || e.GrantID != "" {
				t.Errorf("%s: recorded as %+v", who, e)
			}
		}
	}
	if n := b.store.reads.Load(); n != reads {
		t.Errorf("%d reads", n-reads)
	}
}
