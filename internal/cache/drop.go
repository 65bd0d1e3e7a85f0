package cache

import "time"

// Drop removes the entry of key if old reports that it was read before what is known from
// elsewhere. version and readAt are those of the entry's read. Loads in progress are not
// affected; see Config.Superseded. It reports whether it removed an entry.
func (c *Cache) Drop(key Key, old func(version string, readAt time.Time) bool) bool {
	h := c.hash(&key)
	landing := c.landingOf(h)
	landing.Lock()
	defer landing.Unlock()
	c.using.RLock()
	defer c.using.RUnlock()
	if c.closed {
		return false
	}
	e := c.peek(h, &key)
	if e == nil || !old(e.secret.Version, e.secret.FetchedAt) {
		return false
	}
	c.drop(h)
	return true
}

// DropAll removes all entries.
func (c *Cache) DropAll() {
	for i := range c.landing { // ristretto's Clear must not run with a Set or Del
		c.landing[i].Lock()
		defer c.landing[i].Unlock()
	}
	c.using.RLock()
	defer c.using.RUnlock()
	if !c.closed {
		c.store.Clear()
	}
}

// drop removes an entry and the writes for it that ristretto may have queued.
func (c *Cache) drop(h uint64) {
	c.store.Del(h)
	c.store.Wait()
}

// Revise removes the entries of integrations that read differently now. revisions has the
// Revision of each of them, "" if it was removed. Calls do not get such entries, but if the
// integration returned to an earlier Revision, they would get what Drop had not removed
// meanwhile. Outcomes of loads in progress are not kept.
func (c *Cache) Revise(revisions map[string]string) {
	if len(revisions) == 0 {
		return
	}
	differs := func(o origin) bool {
		revision, ok := revisions[o.integration]
		return ok && revision != o.revision
	}
	var loading []*flight
	c.mu.Lock()
	for key, f := range c.flights {
		if differs(key.origin()) {
			loading = append(loading, f)
		}
	}
	c.mu.Unlock()
	for _, f := range loading {
		landing := c.landingOf(f.hash)
		landing.Lock()
		f.obsolete = true // or it has landed, and its entry is in the queue
		landing.Unlock()
	}
	for _, key := range c.expiry.keys(differs) {
		c.Drop(key, func(string, time.Time) bool { return true })
	}
}
