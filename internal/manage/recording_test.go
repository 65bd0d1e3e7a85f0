package manage_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/manage"
	"github.com/secretbroker/secretbroker/internal/placement"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/usage"
)

// recordingSince is a UsageStore that has usage since a time.
type recordingSince struct {
	registry.UsageStore
	since time.Time
}

func (u recordingSince) Recording() registry.Recording {
	return registry.Recording{Since: u.since, ReplicaOnly: true}
}

// TestRecordedSince: answers about usage say since when it is recorded: since the creation of
// an integration in a database, and never in the future.
func TestRecordedSince(t *testing.T) {
	b := newSampleBench(t) // created at now
	check := func(s *manage.Service, id string, want manage.Recording) {
		t.Helper()
		in, err := s.Get(t.Context(), as(orgOwner), id)
		if err != nil || in.Recording != want {
			t.Errorf("Get: %+v, %v, want %+v", in.Recording, err, want)
		}
		all, _, err := s.List(t.Context(), as(orgOwner), manage.ListOptions{})
		if err != nil || len(all) != 1 || all[0].Recording != want {
			t.Errorf("List: %+v, %v", all, err)
		}
		page, err := s.Usage(t.Context(), as(orgOwner), manage.UsageQuery{IntegrationID: id})
		if err != nil || page.Recording != want {
			t.Errorf("Usage: %+v, %v", page.Recording, err)
		}
	}
	check(b.Service, "cspi", manage.Recording{Since: now, GrantsSince: now})

	f := newFileBench(t, placement.Config{}, map[string]string{"a": fileDocument})
	r, err := f.files.Record(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	clock := r.UpdatedAt.Add(2 * time.Hour)
	f.cfg.Now = func() time.Time { return clock }
	for since, grants := range map[time.Duration]time.Duration{-time.Hour: 0, time.Hour: time.Hour, 5 * time.Hour: 2 * time.Hour} {
		f.cfg.Usage = recordingSince{usage.NewMemory(0), r.UpdatedAt.Add(since)}
		check(manage.New(f.cfg), "a", manage.Recording{
			Since: r.UpdatedAt.Add(min(since, 2*time.Hour)), GrantsSince: r.UpdatedAt.Add(grants), ReplicaOnly: true,
		})
	}
	// Nothing is said if the usage cannot be read.
	f.cfg.Usage = unreadableUses{usage.NewMemory(0)}
	in, err := manage.New(f.cfg).Get(t.Context(), as(orgOwner), "a")
	if err != nil || in.Recording != (manage.Recording{}) {
		t.Errorf("unreadable usage: %+v, %v", in.Recording, err)
	}
}

// unreadableUses cannot say when integrations were used.
type unreadableUses struct{ registry.UsageStore }

func (unreadableUses) LastUsed(context.Context) (map[string]time.Time, error) {
	return nil, errors.New("the disk is broken")
}

// TestUnwrittenUsageIsListed: usage that cannot be written is listed from memory, merged with
// what is stored, and its grant counts as used.
func TestUnwrittenUsageIsListed(t *testing.T) {
	f := newFileBench(t, placement.Config{}, map[string]string{"a": fileDocument})
	stored := usage.NewMemory(0)
	use := registry.Usage{Integration: "a", Principal: worker, Store: vault, Secret: "old", GrantID: "gone", Version: "v1", FirstAt: now.Add(-time.Hour), LastAt: now.Add(-time.Hour)}
	if err := stored.MergeUsage(t.Context(), []registry.Usage{use}); err != nil {
		t.Fatal(err)
	}
	uses := usage.New(usage.Config{Store: stored, Now: func() time.Time { return now }})
	uses.Used(registry.Read{Principal: worker, Connector: "", Integration: "a", UID: "", GrantID: "gone", Ref: secret.Ref{Store: vault, Name: "old"}, Version: "v2"})
	uses.Used(registry.Read{Principal: worker, Connector: "", Integration: "a", UID: "", GrantID: "workers", Ref: secret.Ref{Store: vault, Name: "new"}, Version: "v1"})
	f.cfg.Usage, f.cfg.UsageInMemory = stored, uses.InMemory
	f.cfg.NoteUsage = func(context.Context) error { return errors.New("the disk is full") }
	page, err := manage.New(f.cfg).Usage(t.Context(), as(orgOwner), manage.UsageQuery{IntegrationID: "a"})
	if err != nil || len(page.Usage) != 2 || len(page.UnusedGrantIDs) != 0 {
		t.Fatalf("%+v, %v", page, err)
	}
	for _, u := range page.Usage {
		if u.Secret == "old" && (u.Version != "v2" || !u.FirstAt.Equal(use.FirstAt) || !u.LastAt.Equal(now)) || u.FirstAt.IsZero() {
			t.Errorf("%+v", u)
		}
	}
}
