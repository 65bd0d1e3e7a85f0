package manage_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/manage"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// countingStore counts the operations that depend on an id, whose duration may depend on it.
type countingStore struct {
	registry.Store
	registry.UsageStore
	asked atomic.Int64
}

func (s *countingStore) Get(id string) (*integration.Integration, error) {
	s.asked.Add(1)
	return s.Store.Get(id)
}

func (s *countingStore) List() []*integration.Integration {
	s.asked.Add(1)
	return s.Store.List()
}

func (s *countingStore) Record(ctx context.Context, id string) (registry.Record, error) {
	s.asked.Add(1)
	return s.Store.Record(ctx, id)
}

func (s *countingStore) Records(ctx context.Context, p registry.Page) ([]registry.Record, error) {
	s.asked.Add(1)
	return s.Store.Records(ctx, p)
}

func (s *countingStore) Refresh(ctx context.Context) error {
	s.asked.Add(1)
	return s.Store.Refresh(ctx)
}

func (s *countingStore) Create(ctx context.Context, c registry.Change) (registry.Record, error) {
	s.asked.Add(1)
	return s.Store.Create(ctx, c)
}

func (s *countingStore) Update(ctx context.Context, c registry.Change) (registry.Record, error) {
	s.asked.Add(1)
	return s.Store.Update(ctx, c)
}

func (s *countingStore) Delete(ctx context.Context, id, etag string) error {
	s.asked.Add(1)
	return s.Store.Delete(ctx, id, etag)
}

// untouchable is a UsageStore of which no method may be called.
type untouchable struct{ registry.UsageStore }

// A caller without a role on an integration is refused without a read of any integration,
// whether or not the id exists.
func TestStrangersCauseNoWork(t *testing.T) {
	b := newSampleBench(t)
	elsewhere := authz.Principal("spiffe://example.org/teams/other/owner")
	other := sample(t, "other")
	other.Roles = integration.RolesSection{ResourceOwner: []string{string(elsewhere)}}
	if _, err := b.Create(t.Context(), as(orgOwner), other, credentials(), manage.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	store := &countingStore{Store: b.store, UsageStore: b.store}
	cfg := b.cfg
	cfg.Store, cfg.Usage = store, nil // which would be asked about all integrations
	s := manage.New(cfg)
	g := manage.Grant{Principals: []string{"dns:x"}}
	for _, who := range []authz.Principal{worker, elsewhere} {
		for _, id := range []string{"cspi", "nope", "not an id"} {
			doc := sample(t, id)
			_, _, errUpdate := s.Update(t.Context(), as(who), doc, nil, credentials(), manage.WriteOptions{ValidateOnly: true})
			for i, err := range []error{
				fault(s.Get(t.Context(), as(who), id)), errUpdate, fault(s.Validate(t.Context(), as(who), id)),
				fault(s.Usage(t.Context(), as(who), manage.UsageQuery{IntegrationID: id})), fault(s.Grant(t.Context(), as(who), id, g, manage.WriteOptions{})),
				fault(s.Revoke(t.Context(), as(who), id, g, manage.WriteOptions{ETag: "x"})),
				fault(s.Create(t.Context(), as(who), doc, nil, manage.WriteOptions{})),
				s.Delete(t.Context(), as(who), id, manage.WriteOptions{Force: true}),
			} {
				if reasonOf(err) != secret.ReasonAccessDenied {
					t.Errorf("%s, %q, call %d: %v", who, id, i, err)
				}
			}
		}
	}
	if all, _, err := s.List(t.Context(), as(worker), manage.ListOptions{Filter: "unused"}); err != nil || len(all) != 0 {
		t.Errorf("List of a stranger: %v, %v", all, err)
	}
	cfg.Usage = untouchable{}
	if page, err := manage.New(cfg).Usage(t.Context(), as(worker), manage.UsageQuery{IntegrationID: manage.AllIntegrations, Filter: "no filter at all"}); err != nil || len(page.Usage) != 0 || page.Next != "" {
		t.Errorf("all usage for a stranger: %+v, %v", page, err)
	}
	if n := store.asked.Load(); n != 0 {
		t.Errorf("the store was asked %d times", n)
	}
	if _, err := s.Get(t.Context(), as(elsewhere), "other"); err != nil || store.asked.Load() == 0 {
		t.Errorf("caller with a role: %v, asked %d times", err, store.asked.Load())
	}
}

// A role takes effect with the change that grants or removes it, also for a list.
func TestRolesTakeEffectAtOnce(t *testing.T) {
	b := newSampleBench(t)
	for i := range 3 {
		who := authz.Principal(fmt.Sprintf("spiffe://example.org/new/%d", i))
		for _, roles := range [][]string{{"spiffe://example.org/new/*"}, nil, {string(who)}} {
			doc := sample(t, "cspi")
			doc.Roles.Auditor = roles
			if _, _, err := b.Update(t.Context(), as(orgOwner), doc, []string{"roles"}, nil, manage.WriteOptions{}); err != nil {
				t.Fatal(err)
			}
			_, err := b.Get(t.Context(), as(who), "cspi")
			all, _, errList := b.List(t.Context(), as(who), manage.ListOptions{})
			if (err == nil) != (roles != nil) || (len(all) == 1) != (roles != nil) || errList != nil {
				t.Errorf("%s by %v: %v; listed: %d, %v", who, roles, err, len(all), errList)
			}
		}
	}
}
