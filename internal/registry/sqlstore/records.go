package sqlstore

import (
	"context"
	"sort"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
)

func principal(s string) authz.Principal { return authz.Principal(s) }

// Record implements registry.Store.
func (s *Store) Record(ctx context.Context, id string) (registry.Record, error) {
	n, err := s.readable(ctx)
	if err != nil {
		return registry.Record{}, err
	}
	k := n.get(id)
	if k == nil {
		return registry.Record{}, registry.ErrNotFound
	}
	return k.inEffect(), nil
}

// Records implements registry.Store.
func (s *Store) Records(ctx context.Context, page registry.Page) ([]registry.Record, error) {
	n, err := s.readable(ctx)
	if err != nil {
		return nil, err
	}
	some := n.entries[sort.Search(len(n.entries), func(i int) bool { return n.entries[i].id > page.After }):]
	if page.Limit > 0 {
		some = some[:min(page.Limit, len(some))]
	}
	records := make([]registry.Record, len(some))
	for i, k := range some {
		records[i] = k.inEffect()
	}
	return records, nil
}

// readable returns the current snapshot, unless ctx has ended or the snapshot is too old.
func (s *Store) readable(ctx context.Context) (*snapshot, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !s.mayServe(s.cfg.Now()) {
		return nil, registry.ErrUnavailable
	}
	return s.current.Load(), nil
}

// Refresh implements registry.Store. Concurrent calls share looks: a call makes no look of
// its own if another one began after the call.
func (s *Store) Refresh(ctx context.Context) error {
	if err := s.followSince(ctx, s.cfg.Now(), false); err != nil {
		return unavailable(err)
	}
	return nil
}

// inEffect returns the record of an integration. If the document has become invalid although
// it is unchanged, for example because of a file that it refers to, the integration that was
// made from it earlier is still served, and its roles decide who may see the record.
func (k *kept) inEffect() registry.Record {
	r := k.record(k.parsed, k.names)
	if r.Integration == nil {
		r.Integration = k.serving
	}
	return r
}

// record returns the part of a row that callers may see.
func (r *row) record(p integration.Parsed, credentials []string) registry.Record {
	return registry.Record{
		ID: r.id, UID: r.uid, Document: []byte(r.spec), ETag: r.etag, Credentials: credentials,
		CreatedAt: instant(r.createdAt), UpdatedAt: instant(r.updatedAt),
		CreatedBy: principal(r.createdBy), UpdatedBy: principal(r.updatedBy),
		Integration: p.Integration, Faults: p.Faults,
	}
}

func instant(micro int64) time.Time {
	if micro == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micro).UTC()
}
