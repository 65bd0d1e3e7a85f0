package manage_test

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/manage"
	"github.com/secretbroker/secretbroker/internal/placement"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// replicas returns two Services of one database. Neither looks for the other's changes.
func replicas(t *testing.T) (first, second *bench) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "registry.db")
	b := newBench(t, placement.Config{})
	open := func() *bench {
		s, err := sqlstore.OpenSQLite(t.Context(), file, sqlstore.Config{Kinds: kinds.All(), Sealer: b.keys, MaxIntegrations: 2, Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		replica := *b
		replica.store, replica.cfg.Store, replica.cfg.Usage = s, s, nil
		replica.Service = manage.New(replica.cfg)
		return &replica
	}
	return open(), open()
}

// A change is derived from what another replica has just written, not from an older state
// in memory.
func TestChangesFollowOtherReplicas(t *testing.T) {
	first, second := replicas(t)
	g := manage.Grant{Principals: []string{"dns:x.example.org"}}
	has := func(in manage.Integration) bool { return slices.ContainsFunc(in.Document.Grants, g.Equal) }
	first.create(t, "cspi")
	if in, err := second.Grant(t.Context(), as(orgAssigner), "cspi", g, manage.WriteOptions{}); err != nil || !has(in) {
		t.Fatalf("a grant on what the other replica has created: %v", err)
	}
	if in, err := first.Revoke(t.Context(), as(orgAssigner), "cspi", g, manage.WriteOptions{}); err != nil || has(in) {
		t.Fatalf("the other replica's grant is not revoked: %v", err)
	}
	in, err := second.Grant(t.Context(), as(orgAssigner), "cspi", g, manage.WriteOptions{})
	if err != nil || !has(in) || !has(second.get(t, "cspi")) {
		t.Fatalf("a grant that the other replica has revoked is not made again: %v", err)
	}
	for _, validate := range []bool{true, false} { // each has the newest etag
		o := manage.WriteOptions{ETag: in.ETag, ValidateOnly: validate}
		if _, err := first.Revoke(t.Context(), as(orgAssigner), "cspi", g, o); err != nil {
			t.Errorf("Revoke with the other replica's etag, validate_only %v: %v", validate, err)
		}
	}
	if err := second.Delete(t.Context(), as(orgOwner), "cspi", manage.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	first.create(t, "cspi")
}

// Reads and validate_only are answered from memory while the database cannot be reached;
// changes are refused.
func TestReadsNeedNoDatabase(t *testing.T) {
	b, _ := replicas(t)
	b.create(t, "cspi")
	if err := b.store.Close(); err != nil {
		t.Fatal(err)
	}
	g := manage.Grant{Principals: []string{"dns:x.example.org"}}
	in, err := b.Get(t.Context(), as(auditor), "cspi")
	if err != nil || in.ETag == "" || !in.CreatedAt.Equal(now) || in.CreatedBy != orgOwner || len(in.CredentialNames) != 1 {
		t.Errorf("Get: %+v, %v", in, err)
	}
	if all, _, err := b.List(t.Context(), as(auditor), manage.ListOptions{}); err != nil || len(all) != 1 {
		t.Errorf("List: %d, %v", len(all), err)
	}
	o := manage.WriteOptions{ValidateOnly: true}
	doc := in.Document
	doc.DisplayName = "x"
	for what, err := range map[string]error{
		"Grant":  fault(b.Grant(t.Context(), as(assigner), "cspi", g, o)),
		"Create": fault(b.Create(t.Context(), as(orgOwner), sample(t, "other"), credentials(), o)),
		"Delete": b.Delete(t.Context(), as(owner), "cspi", manage.WriteOptions{ValidateOnly: true, Force: true}),
	} {
		if err != nil {
			t.Errorf("%s, validated only: %v", what, err)
		}
	}
	if _, _, err := b.Update(t.Context(), as(owner), doc, []string{"display_name"}, nil, o); err != nil {
		t.Errorf("Update, validated only: %v", err)
	}
	for what, err := range map[string]error{
		"Grant":  fault(b.Grant(t.Context(), as(assigner), "cspi", g, manage.WriteOptions{})),
		"Create": fault(b.Create(t.Context(), as(orgOwner), sample(t, "other"), credentials(), manage.WriteOptions{})),
		"Delete": b.Delete(t.Context(), as(owner), "cspi", manage.WriteOptions{Force: true}),
	} {
		if reasonOf(err) != secret.ReasonRegistryUnavailable {
			t.Errorf("%s: %v", what, err)
		}
	}
}
