package cache

import (
	"math"
	"strings"
	"sync/atomic"
	"time"
	"unique"

	"github.com/secretbroker/secretbroker/internal/elapsed"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Key names one secret as read through one state of an integration. It never
// contains the caller. Every field is in canonical form.
type Key struct {
	Integration string
	// Revision makes an integration miss by itself once it reads otherwise than
	// before.
	Revision string
	Store    string
	Name     string
	// Version is empty for the current one.
	Version string
}

// clone returns a Key that keeps none of the caller's larger strings alive.
func (k Key) clone() Key {
	return Key{
		Integration: strings.Clone(k.Integration),
		Revision:    strings.Clone(k.Revision),
		Store:       strings.Clone(k.Store),
		Name:        strings.Clone(k.Name),
		Version:     strings.Clone(k.Version),
	}
}

// origin is what the keys of many secrets have in common. There is one in memory
// for all of them.
type origin struct{ integration, revision, store string }

func (k *Key) origin() origin { return origin{k.Integration, k.Revision, k.Store} }

// entryOverhead is about what an entry takes in addition to its texts and payload, in
// bytes, measured with a hundred thousand of them (BenchmarkMemory): 186 of its own,
// its Secret and its element of the expiry queue, 110 to 160 of ristretto's map and its policy's,
// which double their size at times, and what texts and payload are rounded up by.
const entryOverhead = 340

// neverRefresh as an entry's refreshAt says that no hit is to start a refresh:
// one is under way, or refreshing ahead is off.
const neverRefresh = math.MaxInt64

// entry is one successful read. What it says of itself is immutable but for
// refreshAt. There are as many entries as secrets in memory, so its fields are few
// and in an order that leaves no gaps: 64 bytes.
type entry struct {
	// secret is the flight's reference at first. An entry in ristretto has one of
	// its own, for as long as it is in the expiry queue. FetchedAt is when the read began, by
	// the cache's clocks.
	secret *secret.Secret
	// origin, and name with the version behind it from the split on, are the Key.
	origin unique.Handle[origin]
	name   string
	split  uint32
	place  int32 // in the expiry queue, counted from one; its mutex guards place and ends
	ends   time.Duration
	// ttl is how long after the read the integration lets a value be answered.
	ttl time.Duration
	// refreshAt is the age in nanoseconds from which a hit starts a refresh.
	refreshAt atomic.Int64
}

// newEntry makes the entry of a load that began at started and ended at now. It
// takes over the load's reference.
func newEntry(key Key, s *secret.Secret, ttl time.Duration, refreshAhead float64, started, now time.Time) *entry {
	e := &entry{
		secret: dated(s, started, now),
		origin: unique.Make(key.origin()),
		name:   string(append([]byte(key.Name), key.Version...)), // a copy in any case
		split:  uint32(len(key.Name)),                            //nolint:gosec // no name is that long
		ttl:    max(ttl, 0),
	}
	e.refreshAt.Store(int64(e.refreshDue(refreshAhead)))
	return e
}

// dated returns s or, if its FetchedAt is nothing to reckon with, the same as of a
// time that is: with a monotonic reading if started has one, and not from the
// future, which would live too long.
func dated(s *secret.Secret, started, now time.Time) *secret.Secret {
	asOf := s.FetchedAt
	if hasMonotonic(started) && !hasMonotonic(asOf) {
		asOf = started.Add(asOf.Sub(started))
	}
	if asOf.After(now) {
		asOf = started
	}
	if asOf == s.FetchedAt {
		return s
	}
	defer s.Release()
	return s.Again(asOf, s.ExpiresAt)
}

func hasMonotonic(t time.Time) bool { return t != t.Round(0) }

// key returns the entry's Key. Its strings are the entry's.
func (e *entry) key() Key {
	o := e.origin.Value()
	return Key{Integration: o.integration, Revision: o.revision, Store: o.store, Name: e.name[:e.split], Version: e.name[e.split:]}
}

// is reports whether the entry is key's.
func (e *entry) is(key *Key) bool {
	return e.name[:e.split] == key.Name && e.name[e.split:] == key.Version && e.origin.Value() == key.origin()
}

// age is the time from the read to an instant.
func (e *entry) age(at time.Time) time.Duration { return elapsed.Between(e.secret.FetchedAt, at) }

// validFor is how long after the read the secret itself is valid.
func (e *entry) validFor() time.Duration {
	if e.secret.ExpiresAt.IsZero() {
		return math.MaxInt64
	}
	return e.secret.ExpiresAt.Sub(e.secret.FetchedAt)
}

// fresh reports whether the entry, of this age now, answers a request at whose
// arrival it was of that age: it is within its life and no older than the request
// takes.
func (e *entry) fresh(req *Request, atArrival, age time.Duration) bool {
	return age < e.lifeFor(req) && e.recentFor(req, atArrival)
}

// stale reports whether the entry, past its life, may stand in for a store that
// cannot be reached.
func (e *entry) stale(req *Request, atArrival, age time.Duration) bool {
	return age-min(e.ttl, req.TTL) < req.MaxStale && age < e.validFor() && e.recentFor(req, atArrival)
}

// recentFor reports whether the request's MaxAge, if any, allows the entry. It
// counts from the request's arrival, so that a caller may take the read it has
// itself waited for.
func (e *entry) recentFor(req *Request, atArrival time.Duration) bool {
	return !req.HasMaxAge || atArrival <= req.MaxAge
}

// lifeFor is how long after its read the entry answers this request. The request's
// own TTL counts too, so that a shortened one takes effect at once.
func (e *entry) lifeFor(req *Request) time.Duration {
	return min(e.ttl, e.validFor(), req.TTL)
}

// keepFor is how long from now ristretto should keep the entry.
func (e *entry) keepFor(maxStale time.Duration, now time.Time) time.Duration {
	return min(e.ttl+maxStale, e.validFor()) - e.age(now)
}

// refreshDue is the age at which the last part of the entry's life begins, in which
// a hit starts a refresh.
func (e *entry) refreshDue(refreshAhead float64) time.Duration {
	if refreshAhead <= 0 {
		return neverRefresh
	}
	life := min(e.ttl, e.validFor())
	return life - time.Duration(refreshAhead*float64(life))
}

// refreshIsDue reports whether a hit would start a refresh.
func (e *entry) refreshIsDue(age time.Duration) bool {
	at := e.refreshAt.Load()
	return at != neverRefresh && int64(age) >= at
}

// claimRefresh reports whether the caller, and no other call, is to start a
// refresh.
func (e *entry) claimRefresh(age time.Duration) bool {
	at := e.refreshAt.Load()
	return at != neverRefresh && int64(age) >= at && e.refreshAt.CompareAndSwap(at, neverRefresh)
}

// postponeRefresh gives up a claim: the next hit after wait may try again.
func (c *Cache) postponeRefresh(e *entry, now time.Time, wait time.Duration) {
	e.refreshAt.Store(int64(max(e.refreshDue(c.cfg.RefreshAhead), e.age(now)+wait)))
}

// cost is about what the entry takes in memory, in bytes. An eighth of the payload
// is for where the members of a JSON document stand, and for what the sizes of
// objects are rounded up by.
func (e *entry) cost() int64 {
	size := e.secret.Size()
	return int64(entryOverhead + len(e.name) + len(e.secret.Version) + size + size/8)
}

// result makes an answer of a secret that has been retained for it.
func (e *entry) result(req *Request, source Source) Result {
	return Result{Secret: e.secret, Expires: e.secret.FetchedAt.Add(e.lifeFor(req)), Source: source}
}
