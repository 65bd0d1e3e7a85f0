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
// contains the caller. Every field is in canonical form. There is one entry for each Key.
type Key struct {
	Integration string
	// Revision changes when the integration reads differently, so that its old entries
	// no longer match.
	Revision string
	Store    string
	Name     string
	// Version is empty for the current version.
	Version string
}

// clone returns a Key that does not keep larger strings of the caller in memory.
func (k Key) clone() Key {
	return Key{
		Integration: strings.Clone(k.Integration),
		Revision:    strings.Clone(k.Revision),
		Store:       strings.Clone(k.Store),
		Name:        strings.Clone(k.Name),
		Version:     strings.Clone(k.Version),
	}
}

// loadKey is what one load reads: the secret of a Key, if its ARN has the suffix.
type loadKey struct {
	Key
	suffix string
}

func (k *loadKey) clone() loadKey { return loadKey{k.Key.clone(), strings.Clone(k.suffix)} }

// origin is the part that the keys of many secrets share. It is in memory once for all of
// them.
type origin struct{ integration, revision, store string }

func (k *Key) origin() origin { return origin{k.Integration, k.Revision, k.Store} }

// entryOverhead is about what an entry takes in addition to its texts and payload, in
// bytes, measured with a hundred thousand entries (BenchmarkMemory): 186 for the entry, its
// Secret and its element of the expiry queue, 110 to 160 for the maps of ristretto and its
// policy, which double their size at times, and the rounding of texts and payload.
const entryOverhead = 340

// LeasePart is the part of a secret's own validity, as its divisor, in which a hit starts a
// refresh: in the last third. A lease has to be renewed, or replaced, before it ends, and
// watchers are told then (package watch).
const LeasePart = 3

// neverRefresh as an entry's refreshAt means that no hit starts a refresh, because one is in
// progress or refreshing is disabled.
const neverRefresh = math.MaxInt64

// entry is one successful read. It is immutable except for refreshAt and the fields of the
// expiry queue. There is one per secret in memory, so its fields are ordered without
// padding: 64 bytes.
type entry struct {
	// secret is the flight's reference at first. An entry in ristretto has its own
	// reference while it is in the expiry queue. FetchedAt is the start of the read, by
	// the cache's clock.
	secret *secret.Secret
	// origin and name are the Key. name is the name up to split, and then the version.
	origin unique.Handle[origin]
	name   string
	split  uint32
	index  int32 // in the expiry queue, from 1; the mutex of the queue guards index and ends
	ends   time.Duration
	// ttl is how long after the read the integration allows the value as an answer.
	ttl time.Duration
	// refreshAt is the age in nanoseconds from which a hit starts a refresh.
	refreshAt atomic.Int64
}

// newEntry returns the entry of a load that began at started and ended at now. It takes the
// load's reference.
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

// dated returns s with a usable FetchedAt: with a monotonic clock reading if started has one,
// and not in the future, because the entry would otherwise live too long.
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

// is reports whether the entry is that of key.
func (e *entry) is(key *Key) bool {
	return e.name[:e.split] == key.Name && e.name[e.split:] == key.Version && e.origin.Value() == key.origin()
}

// age returns the time from the read until at.
func (e *entry) age(at time.Time) time.Duration { return elapsed.Between(e.secret.FetchedAt, at) }

// validFor returns how long after the read the secret itself is valid.
func (e *entry) validFor() time.Duration {
	if e.secret.ExpiresAt.IsZero() {
		return math.MaxInt64
	}
	return e.secret.ExpiresAt.Sub(e.secret.FetchedAt)
}

// fresh reports whether the entry may answer a request: it has not expired at its current
// age, and at the arrival of the request it was not older than MaxAge.
func (e *entry) fresh(req *Request, atArrival, age time.Duration) bool {
	return age < e.lifeFor(req) && e.recentFor(req, atArrival)
}

// stale reports whether the entry may answer a request during an outage although it has
// expired.
func (e *entry) stale(req *Request, atArrival, age time.Duration) bool {
	return age-min(e.ttl, req.TTL) < req.MaxStale && age < e.validFor() && e.recentFor(req, atArrival)
}

// recentFor reports whether the request's MaxAge, if any, allows the entry. MaxAge counts
// back from the arrival of the request, so that a caller may get the read that it has waited
// for.
func (e *entry) recentFor(req *Request, atArrival time.Duration) bool {
	return !req.HasMaxAge || atArrival <= req.MaxAge || req.readSince(e.secret.FetchedAt)
}

// readSince reports whether a read that began at t satisfies ReadSince.
func (r *Request) readSince(t time.Time) bool {
	return !r.ReadSince.IsZero() && t.Round(0).Equal(r.ReadSince)
}

// lifeFor returns how long after its read the entry answers this request. It includes the
// request's own TTL, so that a shortened TTL takes effect at once.
func (e *entry) lifeFor(req *Request) time.Duration {
	return min(e.ttl, e.validFor(), req.TTL)
}

// keepFor returns how long from now the entry must stay in memory.
func (e *entry) keepFor(maxStale time.Duration, now time.Time) time.Duration {
	return min(e.ttl+maxStale, e.validFor()) - e.age(now)
}

// refreshDue returns the age from which a hit starts a refresh.
func (e *entry) refreshDue(refreshAhead float64) time.Duration {
	if refreshAhead <= 0 {
		return neverRefresh
	}
	life := min(e.ttl, e.validFor())
	due := life - time.Duration(refreshAhead*float64(life))
	if valid := e.validFor(); valid < math.MaxInt64 {
		due = min(due, valid-valid/LeasePart)
	}
	return due
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

// cost returns the estimated memory of the entry, in bytes. An eighth of the payload is for
// the positions of the members of a JSON document and for the rounding of object sizes.
func (e *entry) cost() int64 {
	size := e.secret.Size()
	return int64(entryOverhead + len(e.name) + len(e.secret.Version) + size + size/8)
}

// result returns the entry as an answer. The caller has retained its secret.
func (e *entry) result(req *Request, source Source) Result {
	return Result{Secret: e.secret, Expires: e.secret.FetchedAt.Add(e.lifeFor(req)), Source: source}
}
