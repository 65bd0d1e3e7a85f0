package watch

import (
	"time"

	"github.com/secretbroker/secretbroker/internal/cache"
)

// Turn says which replica reads a secret next.
type Turn uint8

// The turns.
const (
	// Alone: there is no other replica.
	Alone Turn = iota
	// Mine: this replica.
	Mine
	// Others: another one. This one reads it somewhat later if the other one does not.
	Others
)

// Seen says that another replica has seen a version of the secret of a load, whose Revision
// does not matter. The Hub reads the secret now if it knows another one.
func (h *Hub) Seen(key cache.Key, version string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for t := range h.loads[Key{key.Integration, key.Store, key.Name, key.Version}] {
		if !t.generated && (!t.known || t.err != nil || t.version != version) {
			h.readSoon(t)
		}
	}
	h.poke()
}

// ReadElsewhere says that a read of another replica, which began at a time, saw a version of
// the secret of a load, whose Revision does not matter. If the Hub knows the same version, it
// does not read the secret again before the interval after that read has passed.
func (h *Hub) ReadElsewhere(key cache.Key, version string, began time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	for t := range h.loads[Key{key.Integration, key.Store, key.Name, key.Version}] {
		if !t.postponable(version) || h.polls(t) || began.Sub(t.readAt) > h.mostPostponed(t) {
			continue
		}
		due := t.readAfter(began, t.pause(Others), now)
		if due.After(t.readDue) {
			t.queuedBy, t.byClock = nil, false
			h.schedule(t, due)
			h.stats.Postponed++
		}
	}
}

// mostPostponed returns for how long reads of other replicas take the place of those of this
// one. They do not tell whether the end of the version's validity has moved, about which
// watchers must be told in time.
func (h *Hub) mostPostponed(t *target) time.Duration {
	return max(h.cfg.ExpiryLead/4, 12*t.interval)
}

// postponable reports whether a read of another replica that saw a version takes the place of
// the next one by the clock.
func (t *target) postponable(version string) bool {
	return t.known && t.version == version && t.failingSince.IsZero() && t.hintedAt.IsZero() && !t.running && t.allowed > 0
}
