package usage

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/registry"
)

const (
	// maxSeen is the maximum number of secrets whose last read is in memory.
	maxSeen = 1 << 14
	// seenInterval is the least time between two writes of the same version of a secret.
	seenInterval = time.Minute
)

// seen is what this replica has read from stores. The zero seen is ready for use.
type seen struct {
	mu  sync.Mutex
	all map[seenKey]*sighting
}

type seenKey struct{ integration, uid, store, secret string }

type sighting struct {
	version string
	readAt  time.Time
	dirty   bool      // to be written
	wrote   time.Time // when it was written last
}

// Seen records which version of a secret a read of its store has found. It must be called for
// reads without a version only. It does not block.
func (r *Recorder) Seen(v registry.Seen) {
	k := seenKey{v.Integration, v.UID, v.Store, v.Secret}
	s := &r.seen
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.all[k]
	if e == nil {
		if len(s.all) >= maxSeen && !s.makeRoom() {
			return
		}
		if s.all == nil {
			s.all = make(map[seenKey]*sighting)
		}
		e = &sighting{}
		s.all[k] = e
	}
	if v.ReadAt.Before(e.readAt) && !e.readAt.After(r.cfg.Now()) {
		return // a slow read that began earlier
	}
	e.dirty = e.dirty || v.Version != e.version || v.ReadAt.Sub(e.wrote) >= seenInterval || v.ReadAt.Before(e.wrote)
	e.version, e.readAt = v.Version, v.ReadAt
}

// makeRoom removes any secret that is written, and reports whether there was one. The store
// has it, so the next read only writes it again.
func (s *seen) makeRoom() bool {
	for k, e := range s.all {
		if !e.dirty {
			delete(s.all, k)
			return true
		}
	}
	return false
}

// flushSeen writes what was seen since the last flush.
func (r *Recorder) flushSeen(ctx context.Context) error {
	var batch []registry.Seen
	s := &r.seen
	s.mu.Lock()
	for k, e := range s.all {
		if e.dirty {
			e.dirty = false
			batch = append(batch, registry.Seen{Integration: k.integration, UID: k.uid, Store: k.store, Secret: k.secret, Version: e.version, ReadAt: e.readAt.UTC()})
		}
	}
	s.mu.Unlock()
	for chunk := range slices.Chunk(batch, batchSize) {
		err := r.cfg.Store.MergeSeen(ctx, chunk)
		r.wroteSeen(chunk, err == nil)
		if err := r.written(err); err != nil {
			r.wroteSeen(batch, false)
			return err
		}
	}
	return nil
}

// wroteSeen notes when the elements of a batch were written, or that they could not be.
func (r *Recorder) wroteSeen(batch []registry.Seen, ok bool) {
	s := &r.seen
	s.mu.Lock()
	defer s.mu.Unlock()
	now := r.cfg.Now()
	for i := range batch {
		v := &batch[i]
		e := s.all[seenKey{v.Integration, v.UID, v.Store, v.Secret}]
		switch {
		case e == nil:
		case ok:
			e.wrote = now
		default:
			e.dirty = true
		}
	}
}
