package manage_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/manage"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/usage"
)

// unreadable is a UsageStore that cannot be read.
type unreadable struct{ registry.UsageStore }

func (unreadable) Usage(context.Context, string, time.Time, int) ([]registry.Usage, error) {
	return nil, errors.New("the database is gone")
}

// Unknown usage does not count as unused.
func TestDeleteIsRefusedWhileUsageIsUnknown(t *testing.T) {
	b := newSampleBench(t)
	cfg := b.cfg
	cfg.Usage = unreadable{b.cfg.Usage}
	if err := manage.New(cfg).Delete(t.Context(), as(owner), "cspi", manage.WriteOptions{}); reasonOf(err) != secret.ReasonRegistryUnavailable {
		t.Errorf("got %v", err)
	}
	if err := b.Delete(t.Context(), as(owner), "cspi", manage.WriteOptions{}); err != nil {
		t.Error(err)
	}
}

func uidOf(t *testing.T, b *bench, id string) string {
	t.Helper()
	rec, err := b.store.Record(t.Context(), id)
	if err != nil || rec.UID == "" {
		t.Fatalf("%+v, %v", rec, err)
	}
	return rec.UID
}

// A use in memory makes a deletion fail at once, whether or not usage can be written or read.
func TestDeleteIsRefusedByUsageInMemory(t *testing.T) {
	b := newSampleBench(t)
	cfg := b.cfg
	cfg.Usage = unreadable{b.cfg.Usage}
	noted := 0
	cfg.NoteUsage = func(context.Context) error { noted++; return errors.New("the database is full") }
	uses := usage.New(usage.Config{Store: b.store, Now: func() time.Time { return now }})
	cfg.UsageInMemory = uses.InMemory
	uses.Used(registry.Read{Principal: worker, Connector: "sink", Integration: "cspi", UID: uidOf(t, b, "cspi"), GrantID: "", Ref: secret.Ref{Store: vault, Name: "db"}, Version: "v1"})
	uses.Used(registry.Read{Principal: worker, Connector: "sink", Integration: "cspi2", UID: "other", GrantID: "", Ref: secret.Ref{Store: vault, Name: "db"}, Version: "v1"})
	s := manage.New(cfg)
	err := s.Delete(t.Context(), as(owner), "cspi", manage.WriteOptions{})
	if reasonOf(err) != secret.ReasonIntegrationInUse || !strings.Contains(err.Error(), `by `+string(worker)+` ("sink");`) {
		t.Errorf("got %v", err)
	}
	// The uses of a deleted integration do not protect its successor.
	succeeding := usage.New(usage.Config{Store: b.store, Now: func() time.Time { return now }})
	cfg.UsageInMemory, cfg.Usage = succeeding.InMemory, b.cfg.Usage
	succeeding.Used(registry.Read{Principal: worker, Connector: "sink", Integration: "cspi", UID: "the uid of a deleted one", GrantID: "", Ref: secret.Ref{Store: vault, Name: "db"}, Version: "v1"})
	if err := manage.New(cfg).Delete(t.Context(), as(owner), "cspi", manage.WriteOptions{ValidateOnly: true}); err != nil {
		t.Error(err)
	}
	succeeding.Used(registry.Read{Principal: worker, Connector: "sink", Integration: "cspi", UID: uidOf(t, b, "cspi"), GrantID: "", Ref: secret.Ref{Store: vault, Name: "db"}, Version: "v1"})
	if err := manage.New(cfg).Delete(t.Context(), as(owner), "cspi", manage.WriteOptions{ValidateOnly: true}); reasonOf(err) != secret.ReasonIntegrationInUse {
		t.Errorf("its own use: %v", err)
	}
	if noted != 0 {
		t.Errorf("a deletion wrote usage %d times", noted)
	}
}

// Usage is listed even if some of it cannot be written.
func TestUsageIsListedWithoutWhatCannotBeWritten(t *testing.T) {
	b := newSampleBench(t)
	cfg := b.cfg
	noted := 0
	cfg.NoteUsage = func(context.Context) error { noted++; return errors.New("the database is full") }
	if _, err := manage.New(cfg).Usage(t.Context(), as(owner), manage.UsageQuery{IntegrationID: "cspi"}); err != nil || noted != 1 {
		t.Errorf("usage is not listed: %v", err)
	}
}

// A use without its secret counts for every grant of its principal.
func TestFoldedUsageSparesGrants(t *testing.T) {
	b := newSampleBench(t)
	other := manage.Grant{ID: "other", Principals: []string{"dns:other.example.org"}}
	if _, err := b.Grant(t.Context(), as(owner), "cspi", other, manage.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := b.store.MergeUsage(t.Context(), []registry.Usage{{Integration: "cspi", Principal: worker, FirstAt: now, LastAt: now}}); err != nil {
		t.Fatal(err)
	}
	page, err := b.Usage(t.Context(), as(owner), manage.UsageQuery{IntegrationID: "cspi"})
	if err != nil || len(page.Usage) != 1 || !cmp.Equal(page.UnusedGrantIDs, []string{"other"}) {
		t.Errorf("%+v, %v", page, err)
	}
	if err := b.Delete(t.Context(), as(owner), "cspi", manage.WriteOptions{}); reasonOf(err) != secret.ReasonIntegrationInUse {
		t.Errorf("got %v", err)
	}
}

// A grant counts as used by the id that was recorded, whatever other grants are added later.
func TestUnusedGrantsAfterAnotherGrant(t *testing.T) {
	b := newSampleBench(t)
	grants := b.get(t, "cspi").Document.Grants
	used := grants[0].GrantID()
	use := registry.Usage{Integration: "cspi", Principal: worker, Store: vault, Secret: "sqlserver-db", GrantID: used, FirstAt: now, LastAt: now}
	if err := b.store.MergeUsage(t.Context(), []registry.Usage{use}); err != nil {
		t.Fatal(err)
	}
	// This one is more specific: it would allow the recorded read now.
	closer := manage.Grant{ID: "closer", Principals: []string{string(worker)}, Secrets: []string{"sqlserver-db"}}
	doc := manage.Document{ID: "cspi", Grants: append([]manage.Grant{closer}, grants...)}
	if _, _, err := b.Update(t.Context(), as(owner), doc, []string{"grants"}, nil, manage.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	page, err := b.Usage(t.Context(), as(owner), manage.UsageQuery{IntegrationID: "cspi"})
	if err != nil || len(page.Usage) != 1 || page.Usage[0].GrantID != used || !cmp.Equal(page.UnusedGrantIDs, []string{"closer"}) {
		t.Errorf("%+v, %v", page, err)
	}
}
