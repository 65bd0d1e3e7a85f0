package cache

import "sync/atomic"

// Stats are counts since New, but for Entries and Bytes, which are as of now.
type Stats struct {
	// Hits were answered from memory, Misses by a load of their own, Shared by
	// a load that another call had started.
	Hits, Misses, Shared uint64
	// StaleAnswers were given past their expiry because of an outage.
	StaleAnswers uint64
	// NegativeHits were answered with a remembered failure, or with a stale
	// value because of one.
	NegativeHits uint64
	// Paced calls had to wait, or were refused, because the secret had only just
	// been read.
	Paced uint64
	// Loads are the reads asked of Loaders; Refreshes are those of them that ran
	// ahead of expiry, LoadFailures those that failed.
	Loads, Refreshes, LoadFailures uint64
	// DroppedSets and RejectedSets are values that were read but not kept: because
	// ristretto was too busy, or because it preferred others or the value was too
	// large. If they grow, MaxBytes is too small for the working set.
	DroppedSets, RejectedSets uint64
	// Evictions made room for other values.
	Evictions uint64
	// Entries and Bytes are what is in memory, expired entries that have not
	// been cleaned up yet included. Bytes is an estimate.
	Entries, Bytes int64
}

// counters are the live form of Stats. hits is on a cache line of its own, because it is
// the only counter that a hit writes.
type counters struct {
	hits atomic.Uint64
	_    [56]byte

	misses, shared, stale, negative, paced atomic.Uint64
	loads, refreshes, failures             atomic.Uint64
	dropped, rejected, evictions           atomic.Uint64
	entries                                atomic.Int64
}

// Stats returns the counts. They are read one by one, so that sums may be off
// by what happens meanwhile.
func (c *Cache) Stats() Stats {
	n := &c.count
	return Stats{
		Hits:         n.hits.Load(),
		Misses:       n.misses.Load(),
		Shared:       n.shared.Load(),
		StaleAnswers: n.stale.Load(),
		NegativeHits: n.negative.Load(),
		Paced:        n.paced.Load(),
		Loads:        n.loads.Load(),
		Refreshes:    n.refreshes.Load(),
		LoadFailures: n.failures.Load(),
		DroppedSets:  n.dropped.Load(),
		RejectedSets: n.rejected.Load(),
		Evictions:    n.evictions.Load(),
		Entries:      n.entries.Load(),
		Bytes:        c.cfg.MaxBytes - c.store.RemainingCost(),
	}
}
