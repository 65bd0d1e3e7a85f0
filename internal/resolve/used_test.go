package resolve_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// What is handed out is noted, and nothing else.
func TestUsed(t *testing.T) {
	b := newBench(t)
	values, err := cache.New(cache.Config{MaxBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer values.Close()
	var used []string
	r := resolve.New(resolve.Config{
		Integrations: b.integrations, Stores: b.store, Cache: values, Audit: b.broken, CacheTTL: time.Minute,
		Used: func(who authz.Principal, connector, integration string, ref secret.Ref, version string) {
			used = append(used, string(who)+" "+connector+" "+integration+" "+ref.Name+" "+ref.Key+" "+version)
		},
	})
	call := func(who authz.Principal, partial bool, refs map[string]string) {
		_, _ = r.Resolve(t.Context(), resolve.Caller{Principal: who}, resolve.Request{
			ID: "r", IntegrationID: "cspi", Connector: "sink", AllowPartial: partial, Configs: refs,
		})
	}
	good, bad := vault+"::db-secret::user", vault+"::db-missing"
	call(worker, false, map[string]string{"a": good})
	call(nobody, false, map[string]string{"a": good})
	call(worker, false, map[string]string{"a": good, "b": bad}) // all is withheld
	call(worker, true, map[string]string{"a": good, "b": bad})
	if _, err := r.Check(t.Context(), resolve.Caller{Principal: worker}, resolve.Request{ID: "r", IntegrationID: "cspi", Configs: map[string]string{"a": good}}); err != nil {
		t.Fatal(err)
	}
	one := string(worker) + " sink cspi db-secret user 0123456789abcdef0123456789abcdef"
	if diff := cmp.Diff([]string{one, one}, used); diff != "" {
		t.Error(diff)
	}
}

func TestNoRegistryIsRecorded(t *testing.T) {
	b := newBench(t)
	r := resolve.New(resolve.Config{Integrations: lost{}, Audit: b.broken})
	_, err := r.Resolve(t.Context(), resolve.Caller{Principal: worker}, resolve.Request{
		ID: "r", IntegrationID: "cspi", Configs: map[string]string{"p": vault + "::db-secret"},
	})
	if secret.AsError(err).Reason != secret.ReasonRegistryUnavailable {
		t.Errorf("Resolve: %v", err)
	}
	events := b.events(t)
	if len(events) != 1 {
		t.Fatalf("%d events", len(events))
	}
	for _, e := range events {
		if e.Outcome != audit.Rejected || e.Reason != secret.ReasonRegistryUnavailable {
			t.Errorf("recorded as %+v", e)
		}
	}
}
