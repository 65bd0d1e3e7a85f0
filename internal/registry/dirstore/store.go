package dirstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"
	"time"

	"github.com/secretbroker/secretbroker/internal/filestamp"
	"github.com/secretbroker/secretbroker/internal/integration"
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

// Record implements registry.Store. It returns what is served. A file at fault has a
// record only while its last valid content is served, and this record has no document.
func (f *Store) Record(_ context.Context, id string) (registry.Record, error) {
	if !f.mayServe() { // reading the file may hang
		return registry.Record{}, registry.ErrUnavailable
	}
	s := f.current.Load()
	if _, ok := s.byID[id]; !ok {
		return registry.Record{}, registry.ErrNotFound
	}
	return f.record(s, id)
}

// Records implements registry.Store, see Record.
func (f *Store) Records(ctx context.Context, page registry.Page) ([]registry.Record, error) {
	if !f.mayServe() {
		return nil, registry.ErrUnavailable
	}
	s := f.current.Load()
	records := []registry.Record{}
	begin := sort.Search(len(s.sorted), func(i int) bool { return s.sorted[i].ID > page.After })
	for _, in := range s.sorted[begin:] {
		if page.Limit > 0 && len(records) == page.Limit {
			break
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		r, err := f.record(s, in.ID)
		if err != nil {
			return nil, err
		}
		records = append(records, r)
	}
	return records, nil
}

// record reads the file again, because documents are not kept in memory.
func (f *Store) record(s *snapshot, id string) (registry.Record, error) {
	in, from := s.byID[id].in, s.byID[id].from
	r := registry.Record{ID: id, ETag: in.Revision, File: from.path, Integration: in}
	if i := slices.IndexFunc(s.faults, func(ff registry.FileFault) bool { return ff.File == from.path }); i >= 0 {
		r.Faults = s.faults[i].Faults
	}
	if from.stamp != (filestamp.Stamp{}) {
		r.UpdatedAt = time.Unix(0, from.stamp.Modified).UTC()
	}
	var page []byte
	data, fault := integration.ReadFile(from.path, &page)
	switch {
	case fault != "" && errors.Is(statError(from.path), os.ErrNotExist):
		return r, nil // just removed, and served until that is detected
	case fault != "":
		return registry.Record{}, fmt.Errorf("registry: %s: %s", from.path, fault)
	case len(r.Faults) == 0 && sha256.Sum256(data) == from.sum:
		r.Document = data
	}
	return r, nil
}

func statError(path string) error {
	_, err := os.Stat(path)
	return err
}
