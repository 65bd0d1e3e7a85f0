package dirstore

import (
	"context"
	"slices"
	"sort"
	"strings"

	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
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

// Record implements registry.Store. For a file at fault of which an earlier version is in
// effect, the record has this version. If nothing is in effect, it has no document.
func (f *Store) Record(ctx context.Context, id string) (registry.Record, error) {
	s, err := f.readable(ctx)
	if err != nil {
		return registry.Record{}, err
	}
	if _, ok := s.byID[id]; ok {
		return s.record(id), nil
	}
	if i, ok := slices.BinarySearchFunc(s.unserved, id, func(u unserved, id string) int { return strings.Compare(u.id, id) }); ok {
		return s.unserved[i].record(), nil
	}
	return registry.Record{}, registry.ErrNotFound
}

// Records implements registry.Store, see Record.
func (f *Store) Records(ctx context.Context, page registry.Page) ([]registry.Record, error) {
	s, err := f.readable(ctx)
	if err != nil {
		return nil, err
	}
	in := s.sorted[sort.Search(len(s.sorted), func(i int) bool { return s.sorted[i].ID > page.After }):]
	faulty := s.unserved[sort.Search(len(s.unserved), func(i int) bool { return s.unserved[i].id > page.After }):]
	n := len(in) + len(faulty)
	if page.Limit > 0 {
		n = min(n, page.Limit)
	}
	records := make([]registry.Record, 0, n)
	for len(records) < n {
		if len(in) == 0 || len(faulty) > 0 && faulty[0].id < in[0].ID {
			records, faulty = append(records, faulty[0].record()), faulty[1:]
		} else {
			records, in = append(records, s.record(in[0].ID)), in[1:]
		}
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
	v := s.byID[id]
	r := registry.Record{ID: id, ETag: v.in.Revision, File: v.from.path, Integration: v.in, Document: []byte(v.document), UpdatedAt: v.modified}
	if i, ok := slices.BinarySearchFunc(s.faults, v.from.path, func(ff registry.FileFault, path string) int { return strings.Compare(ff.File, path) }); ok {
		r.Faults = s.faults[i].Faults
	}
	if since, ok := s.held[v.from.path]; ok {
		r.Faults = append(slices.Clip(r.Faults), strictyaml.Fault{File: v.from.path, Text: heldText(since)})
	}
	return r
}

// record returns the record of an integration of which nothing is in effect. It has no
// document: an invalid file can have a credential in the wrong place.
func (u *unserved) record() registry.Record {
	return registry.Record{ID: u.id, File: u.path, Faults: u.faults}
}
