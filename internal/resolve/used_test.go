package resolve_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestUsed: Used is called for the values that callers get, and for no others.
func TestUsed(t *testing.T) {
	var used []string
	b := newBench(t, func(c *resolve.Config) {
		c.Used = func(who authz.Principal, connector, id, uid, grantID string, ref secret.Ref, version string) {
			used = append(used, string(who)+" "+connector+" "+id+" "+uid+" "+grantID+" "+ref.Name+" "+ref.Key+" "+version)
		}
	})
	call := func(who authz.Principal, partial bool, refs map[string]string) {
		_, _ = b.call(who, resolve.Request{Connector: "sink", AllowPartial: partial, Configs: refs})
	}
	good, bad := vault+"::db-secret::user", vault+"::db-missing"
	call(worker, false, map[string]string{"a": good})
	call(nobody, false, map[string]string{"a": good})
	call(worker, false, map[string]string{"a": good, "b": bad}) // all values are withheld
	call(worker, true, map[string]string{"a": good, "b": bad})
	if _, err := b.Check(t.Context(), resolve.Caller{Principal: worker}, resolve.Request{ID: "r", IntegrationID: "cspi", Configs: map[string]string{"a": good}}); err != nil {
		t.Fatal(err)
	}
	one := string(worker) + " sink cspi uid-of-cspi g0 db-secret user 0123456789abcdef0123456789abcdef"
	if diff := cmp.Diff([]string{one, one}, used); diff != "" {
		t.Error(diff)
	}
}

// failing is a registry whose reads fail.
type failing struct {
	integrations
	err error
}

func (f failing) Get(string) (*integration.Integration, error) { return nil, f.err }

// TestNoRegistry: without a registry a call fails, and the failure is recorded.
func TestNoRegistry(t *testing.T) {
	for failure, want := range map[error]secret.Reason{
		registry.ErrUnavailable:            secret.ReasonRegistryUnavailable,
		errors.New("the database is down"): secret.ReasonInternal,
	} {
		b := newBench(t, func(c *resolve.Config) { c.Integrations = failing{err: failure} })
		_, err := b.call(worker, resolve.Request{Configs: one("p", vault+"::db-secret")})
		if secret.AsError(err).Reason != want {
			t.Errorf("got %v", err)
		}
		events := b.events(t)
		if len(events) != 1 {
			t.Fatalf("%d events", len(events))
		}
		for _, e := range events {
			if e.Outcome != audit.Rejected || e.Reason != want {
				t.Errorf("recorded as %+v", e)
			}
		}
	}
}
