package manage_test

import (
	"context"
	"errors"
	"testing"

	"github.com/secretbroker/secretbroker/internal/manage"
	"github.com/secretbroker/secretbroker/internal/placement"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// What could not be written down does not count as unused.
func TestDeleteIsRefusedWhileUsageIsUnknown(t *testing.T) {
	b := newBench(t, placement.Config{})
	b.create(t, "cspi")
	failing := errors.New("the database is full")
	cfg := b.cfg
	cfg.NoteUsage = func(context.Context) error { return failing }
	s := manage.New(cfg)
	if err := s.Delete(t.Context(), as(owner), "cspi", manage.WriteOptions{}); reasonOf(err) != secret.ReasonRegistryUnavailable {
		t.Errorf("got %v", err)
	}
	if _, err := s.Usage(t.Context(), as(owner), "cspi", 0, ""); err != nil {
		t.Errorf("usage is not listed: %v", err)
	}
	failing = nil
	if err := s.Delete(t.Context(), as(owner), "cspi", manage.WriteOptions{}); err != nil {
		t.Error(err)
	}
}

// A use without its secret may be of any grant that its principal has.
func TestFoldedUsageSparesGrants(t *testing.T) {
	b := newBench(t, placement.Config{})
	b.create(t, "cspi")
	if _, err := b.Grant(t.Context(), as(owner), "cspi", manage.Grant{Principals: []string{"dns:other.example.org"}}, manage.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := b.store.MergeUsage(t.Context(), []registry.Usage{{Integration: "cspi", Principal: worker, FirstAt: now, LastAt: now}}); err != nil {
		t.Fatal(err)
	}
	page, err := b.Usage(t.Context(), as(owner), "cspi", 0, "")
	if err != nil || len(page.Usage) != 1 || len(page.UnusedGrants) != 1 || page.UnusedGrants[0] != 1 {
		t.Errorf("%+v, %v", page, err)
	}
	if err := b.Delete(t.Context(), as(owner), "cspi", manage.WriteOptions{}); reasonOf(err) != secret.ReasonIntegrationInUse {
		t.Errorf("got %v", err)
	}
}
