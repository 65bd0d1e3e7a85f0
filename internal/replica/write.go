package replica

import (
	"context"
	"time"
)

// writeLoop writes pending sightings.
func (t *Tracker) writeLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.poke:
		}
		wait := writeInterval - gatherTime
		if !sleep(ctx, gatherTime) {
			return
		}
		for more := true; more; {
			var err error
			if more, err = t.writeSome(ctx); err != nil && ctx.Err() == nil {
				t.failed(notWritten, err)
				wait = retryWrite
				poked(t.poke)
				break
			}
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// sleep waits for d and reports whether ctx is still valid.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// writeSome writes a chunk of the pending sightings and confirmations. more is whether there
// are others.
func (t *Tracker) writeSome(ctx context.Context) (more bool, err error) {
	t.mu.Lock()
	some := make([]waiting, 0, min(chunk, len(t.pending)))
	for id, w := range t.pending {
		if len(some) == chunk {
			break
		}
		if m, ok := t.mirror[id]; ok && m.version == w.Seen || time.Since(w.ended) > keepRows {
			delete(t.pending, id) // another replica has written it meanwhile, or it is too old
			continue
		}
		some = append(some, w)
	}
	for id, w := range t.again {
		if len(some) == chunk {
			break
		}
		if m, ok := t.mirror[id]; ok && (m.version != w.Seen || m.fresh >= t.since(w.began)) || time.Since(w.ended) > keepRows {
			delete(t.again, id)
			continue
		}
		some = append(some, w)
	}
	more = len(some) == chunk
	t.mu.Unlock()
	if len(some) == 0 {
		t.works(notWritten) // what could not be written is known meanwhile
		return false, nil
	}
	if _, err := t.write(ctx, some); err != nil {
		return false, err
	}
	return more, nil
}

// write writes sightings, and removes them from the pending ones.
func (t *Tracker) write(ctx context.Context, some []waiting) (seq int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, tableTime)
	defer cancel()
	rows := make([]Sighting, len(some))
	for i := range some {
		rows[i] = some[i].Sighting
		rows[i].Age = time.Since(some[i].ended)
		if some[i].Forced {
			rows[i].ForcedAge = time.Since(some[i].began)
		}
		if some[i].Fresh {
			rows[i].FreshAge = time.Since(some[i].began)
		}
	}
	if seq, err = t.cfg.Table.WriteSightings(ctx, t.id, rows); err != nil {
		return 0, err
	}
	t.works(notWritten)
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range some {
		w := &some[i]
		for _, waits := range [...]map[ID]waiting{t.pending, t.again} {
			if p, ok := waits[w.ID]; ok && p.ended.Equal(w.ended) {
				delete(waits, w.ID)
			}
		}
	}
	t.stats.Writes += uint64(len(some))
	poked(t.polled) // the mirror gets the rows by the poll, with what other replicas wrote
	return seq, nil
}

// pruneLoop deletes old rows.
func (t *Tracker) pruneLoop(ctx context.Context) {
	// The first pause depends on the id, so that replicas take turns.
	pause := pruneInterval/2 + time.Duration(t.id[0])*pruneInterval/512
	for sleep(ctx, pause) {
		limited, cancel := context.WithTimeout(ctx, tableTime)
		err := t.cfg.Table.PruneSightings(limited, keepRows, maxRows)
		cancel()
		if err != nil && ctx.Err() == nil {
			t.cfg.Logger.Warn("old sightings were not deleted", "error", err)
		}
		t.forget(time.Now().Add(-keepRows))
		pause = pruneInterval
	}
}

// forget removes entries from the mirror whose rows were deleted from the database.
func (t *Tracker) forget(before time.Time) {
	limit := t.since(before)
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, m := range t.mirror {
		if d := t.drops[id]; d != nil && d.waits {
			continue
		}
		if m.seq <= t.pruned || m.at < limit && m.forced < limit {
			delete(t.mirror, id)
		}
	}
}
