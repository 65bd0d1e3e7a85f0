package resolve_test

import (
	"errors"
	"fmt"
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
	var sequences []uint64
	b := newBench(t, func(c *resolve.Config) {
		c.Used = func(u registry.Read) {
			used = append(used, fmt.Sprint(u.Principal, " ", u.Connector, " ", u.Integration, " ", u.UID, " ", u.GrantID, " ", u.Ref.Name, " ", u.Ref.Key, " ", u.Version, " ", u.RequestID))
			seq, known := u.Position.Sequence()
			sequences = append(sequences, seq)
			if !known {
				t.Error("the position of a committed record is not known")
			}
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
	one := string(worker) + " sink cspi uid-of-cspi g0 db-secret user 0123456789abcdef0123456789abcdef request-1"
	if diff := cmp.Diff([]string{one, one}, used); diff != "" {
		t.Error(diff)
	}
	// The second call has one record before, the first one of the last call is that of a.
	var want []uint64
	for i, e := range b.events(t) {
		if e.Outcome == audit.Served {
			want = append(want, uint64(i+1))
		}
	}
	if diff := cmp.Diff(want, sequences); diff != "" || len(want) != 2 {
		t.Errorf("positions of the records: %s", diff)
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
