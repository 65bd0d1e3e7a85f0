package watch

import (
	"time"

	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// A generated target is a credential that a read creates, see Decision.Generated. Its
// watchers hold the credential of this replica, so the target differs from others:
//
//   - The Hub reads it only through the cache, as a Resolve of its watchers would: when the
//     first of them appears, and when the credential that is known has ended. It is not read
//     by the clock, after a hint, or because another replica has seen another version.
//   - What is known of it is kept until the credential ends, also while it is not watched.
//     Otherwise each client that opens its next stream would make the Hub read, and the read
//     might create a credential.
//   - Its watchers are told of the end in the last third of the validity, from which on the
//     cache renews it (cache.Config.RefreshAhead).

// leadPart is the part of a generated credential's validity, as its divisor, that is left
// when watchers are told of its end. cache.LeasePart is the same part.
const leadPart = cache.LeasePart

// maxKept is the maximum number of generated targets that are kept while they are not
// watched.
const maxKept = 10_000

// errEndless is the outcome of a read whose credential has no end.
var errEndless = secret.Errorf(secret.ReasonSecretNotWatchable,
	"every read of this secret generates a new credential, and the store does not say when it ends, so there is nothing to tell; resolve it again when the broker's copy expires")

// lead returns how long before the end of its validity the watchers of a target are told.
func (h *Hub) lead(t *target) time.Duration {
	if !t.generated {
		return h.cfg.ExpiryLead
	}
	return min(h.cfg.ExpiryLead, t.expiresAt.Sub(t.readAt)/leadPart)
}

// near reports whether the end of the target's validity is near.
func (h *Hub) near(t *target, now time.Time) bool {
	return !t.expiresAt.IsZero() && !now.Before(t.expiresAt.Add(-h.lead(t)))
}

// valid reports whether the target is a generated credential that can be used.
func (t *target) valid(now time.Time) bool {
	return t.generated && t.known && t.err == nil && t.expiresAt.After(now)
}

// endless reports whether the target is generated and has no end. It is not read again.
func (t *target) endless() bool { return t.generated && t.known && t.err == errEndless }

// checkEnd replaces a credential without an end by errEndless.
func (t *target) checkEnd(load *cache.Load) *cache.Load {
	if !t.generated || load.Err != nil || !load.ExpiresAt.IsZero() {
		return load
	}
	failed := *load
	failed.Version, failed.Err = "", errEndless
	return &failed
}

// generatedDue returns when to read a generated target after a read. due is when another
// target would be read.
func (t *target) generatedDue(due, now time.Time) time.Time {
	switch {
	case t.endless():
		return time.Time{}
	case t.valid(now):
		return t.expiresAt
	default: // the last read failed
		return due
	}
}

// keep keeps a target without a caller that may watch it until its credential ends. It
// reports false if the target is not to be kept. It requires the lock.
func (h *Hub) keep(t *target) bool {
	if len(h.kept) >= maxKept || !t.valid(time.Now()) {
		return false
	}
	t.kept = true
	h.kept[t] = struct{}{}
	h.schedule(t, t.expiresAt)
	return true
}

// resume takes up a target that was kept. It reports whether what is known of it is valid. It
// requires the lock.
func (h *Hub) resume(t *target) bool {
	if !t.kept {
		return false
	}
	t.kept = false
	delete(h.kept, t)
	if !t.valid(time.Now()) {
		return false
	}
	h.schedule(t, t.expiresAt)
	return true
}

// unkeep forgets a target that was kept and whose credential has ended. It requires the lock.
func (h *Hub) unkeep(t *target) {
	t.kept = false
	delete(h.kept, t)
	if len(t.items) == 0 {
		h.drop(t)
	}
	h.route(t, Key{})
	h.schedule(t, time.Time{})
}

// changeDue returns when to tell an item of a change. Notices of the change of a generated
// credential come before the previous one ends and while the cache has the new one. The pause
// between two of them bounds what happens if the cache cannot keep the credential: then the
// Resolve of one watcher creates another one for all.
func (s *Stream) changeDue(it *item) time.Time {
	t := it.target
	if !t.generated {
		return t.learnedAt.Add(s.splay)
	}
	if it.expiring {
		return t.learnedAt
	}
	lead := s.hub.lead(t)
	due := t.learnedAt.Add(min(s.splay, lead/2, t.interval/2))
	if it.changedAt > 0 {
		if next := s.hub.began.Add(it.changedAt + min(lead, t.interval)); next.After(due) {
			due = next
		}
	}
	// At the end of the previous credential, nothing is delayed.
	if last := t.lastEnd.Add(-lead); !t.lastEnd.IsZero() && last.Before(due) {
		due = last
	}
	return due
}

// Lost says that a store has revoked the generated credential of a version, which the cache
// does not have any more. If it is watched, the Hub reads another one.
func (h *Hub) Lost(key cache.Key, version string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	for t := range h.loads[Key{key.Integration, key.Store, key.Name, key.Version}] {
		if !t.valid(now) || t.version != version {
			continue
		}
		t.expiresAt = now
		if t.kept {
			h.schedule(t, now)
		} else {
			h.readSoon(t)
		}
	}
	h.poke()
}
