package dirstore

import (
	"context"
	"slices"
	"sort"
	"time"

	"github.com/secretbroker/secretbroker/internal/filestamp"
	"github.com/secretbroker/secretbroker/internal/registry"
)

var _ registry.Store = (*Store)(nil)

// Create implements registry.Store. It returns ErrReadOnly.
func (f *Store) Create(context.Context, registry.Change) (registry.Record, error) {
	return registry.Record{}, registry.ErrReadOnly
}

// Update implements registry.Store. It returns ErrReadOnly.
func (f *Store) Update(context.Context, registry.Change) (registry.Record, error) {
	return registry.Record{}, registry.ErrReadOnly
}

// Delete implements registry.Store. It returns ErrReadOnly.
func (f *Store) Delete(context.Context, string, string) error { return registry.ErrReadOnly }

// Refresh implements registry.Store. It does nothing.
func (f *Store) Refresh(context.Context) error { return nil }

// Record implements registry.Store. It returns what is served. A file at fault has a
// record only while its last valid content is served, and this record has no document.
func (f *Store) Record(ctx context.Context, id string) (registry.Record, error) {
	s, err := f.readable(ctx)
	if err != nil {
		return registry.Record{}, err
	}
	if _, ok := s.byID[id]; !ok {
		return registry.Record{}, registry.ErrNotFound
	}
	return s.record(id), nil
}

// Records implements registry.Store, see Record.
func (f *Store) Records(ctx context.Context, page registry.Page) ([]registry.Record, error) {
	s, err := f.readable(ctx)
	if err != nil {
		return nil, err
	}
	some := s.sorted[sort.Search(len(s.sorted), func(i int) bool { return s.sorted[i].ID > page.After }):]
	if page.Limit > 0 {
		some = some[:min(page.Limit, len(some))]
	}
	records := make([]registry.Record, len(some))
	for i, in := range some {
		records[i] = s.record(in.ID)
	}
	return records, nil
}

// readable returns the current snapshot, unless ctx has ended or the snapshot is too old.
func (f *Store) readable(ctx context.Context) (*snapshot, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !f.mayServe() {
		return nil, registry.ErrUnavailable
	}
	return f.current.Load(), nil
}

// record returns the record of an integration that is served.
func (s *snapshot) record(id string) registry.Record {
	in, from := s.byID[id].in, s.byID[id].from
	r := registry.Record{ID: id, ETag: in.Revision, File: from.path, Integration: in}
	if i := slices.IndexFunc(s.faults, func(ff registry.FileFault) bool { return ff.File == from.path }); i >= 0 {
		r.Faults = s.faults[i].Faults
	}
	if from.stamp != (filestamp.Stamp{}) {
		r.UpdatedAt = time.Unix(0, from.stamp.Modified).UTC()
	}
	if len(r.Faults) == 0 {
		r.Document = []byte(from.document)
	}
	return r
}
