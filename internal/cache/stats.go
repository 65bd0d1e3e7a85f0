package cache

import "sync/atomic"

// Stats are counters since New, except for Entries and Bytes, which are current values.
type Stats struct {
	// Hits counts requests that were answered from memory, Misses those that started a
	// load, and Shared those that joined the load of another call.
	Hits, Misses, Shared uint64
	// StaleAnswers counts requests that were answered with an expired value because of an
	// outage.
	StaleAnswers uint64
	// NegativeHits counts requests that were answered with a cached failure, or with a
	// stale value because of it.
	NegativeHits uint64
	// Paced counts requests that had to wait, or were refused, because of
	// Config.MinReadInterval.
	Paced uint64
	// Loads counts the calls of Loaders, Refreshes those that refreshed an entry before
	// its expiry, and LoadFailures those that failed.
	Loads, Refreshes, LoadFailures uint64
	// DroppedSets and RejectedSets count values that were read but not cached, because
	// ristretto was too busy, or because it preferred others or the value was too large.
	// If they grow, MaxBytes is too small for the working set.
	DroppedSets, RejectedSets uint64
	// Evictions counts values that were removed to make room for others.
	Evictions uint64
	// Entries and Bytes are the number and the estimated memory of the entries, including
	// expired ones that are not removed yet.
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

// Stats returns the counters. It reads them one after the other, so sums may be slightly
// inconsistent under load.
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
