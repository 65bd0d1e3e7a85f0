package cache

import (
	"math"
	"strings"
	"sync/atomic"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// Key names one secret as read through one state of an integration. It never
// contains the caller. Every field is in canonical form.
type Key struct {
	Integration string
	// Revision makes a changed integration miss by itself.
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

// entryOverhead is about what an entry takes beside its texts, in bytes: the
// entry, the Secret, and ristretto's and its policy's maps.
const entryOverhead = 512

// neverRefresh as an entry's refreshAt says that no hit is to start a refresh:
// one is under way, or refreshing ahead is off.
const neverRefresh = math.MaxInt64

// entry is one successful read. What it says of itself is immutable but for
// refreshAt.
type entry struct {
	key Key
	// secret is the flight's reference at first. An entry in ristretto has one of
	// its own, from stay to leave.
	secret *secret.Secret
	// asOf is when the read began, by the cache's clocks.
	asOf time.Time
	// ttl and validFor count from asOf: how long the integration lets a value be
	// answered, and how long the secret itself is valid.
	ttl, validFor time.Duration
	// refreshDue is the age in nanoseconds from which a hit starts a refresh, and
	// refreshAt the same with what is under way or has failed counted in.
	refreshDue int64
	refreshAt  atomic.Int64
	// staying is set from stay to leave, which end calls when the entry is of no
	// more use.
	staying atomic.Bool
	end     atomic.Pointer[time.Timer]
}

// newEntry makes the entry of a load that began at started and ended at now.
func newEntry(key Key, s *secret.Secret, ttl time.Duration, refreshAhead float64, started, now time.Time) *entry {
	// Reckoned from started, so that asOf has a monotonic reading even if
	// FetchedAt has lost its own.
	asOf := started.Add(s.FetchedAt.Sub(started))
	if asOf.After(now) {
		asOf = started // a read from the future would live too long
	}
	e := &entry{key: key, secret: s, asOf: asOf, ttl: max(ttl, 0), validFor: math.MaxInt64}
	if !s.ExpiresAt.IsZero() {
		e.validFor = s.ExpiresAt.Sub(asOf)
	}
	e.refreshDue = neverRefresh
	if refreshAhead > 0 {
		life := min(e.ttl, e.validFor)
		e.refreshDue = int64(life - time.Duration(refreshAhead*float64(life)))
	}
	e.refreshAt.Store(e.refreshDue)
	return e
}

// elapsed is the time from one instant to another by the monotonic or by the
// wall clock, whichever says more: the first stands still while a machine is
// suspended, the second can be set back, and neither may lengthen a life.
func elapsed(from, to time.Time) time.Duration {
	return max(to.Sub(from), to.Round(0).Sub(from.Round(0)))
}

// fresh reports whether the entry answers a request that arrived at arrival:
// it is within its life and no older than the request takes.
func (e *entry) fresh(req *Request, arrival, now time.Time) bool {
	return elapsed(e.asOf, now) < e.lifeFor(req) && e.recentFor(req, arrival)
}

// stale reports whether the entry, past its life, may stand in for a store that
// cannot be reached.
func (e *entry) stale(req *Request, arrival, now time.Time) bool {
	age := elapsed(e.asOf, now)
	return age-min(e.ttl, req.TTL) < req.MaxStale && age < e.validFor && e.recentFor(req, arrival)
}

// recentFor reports whether the request's MaxAge, if any, allows the entry. It
// counts from the request's arrival, so that a caller may take the read it has
// itself waited for.
func (e *entry) recentFor(req *Request, arrival time.Time) bool {
	return !req.HasMaxAge || elapsed(e.asOf, arrival) <= req.MaxAge
}

// lifeFor is how long after asOf the entry answers this request. The request's
// own TTL counts too, so that a shortened one takes effect at once.
func (e *entry) lifeFor(req *Request) time.Duration {
	return min(e.ttl, e.validFor, req.TTL)
}

// keepFor is how long from now ristretto should keep the entry.
func (e *entry) keepFor(maxStale time.Duration, now time.Time) time.Duration {
	return min(e.ttl+maxStale, e.validFor) - elapsed(e.asOf, now)
}

// stay gives the entry a reference to its secret for as long as it is in
// ristretto, and for keep at most. That end is the entry's own: ristretto hides
// what has expired at once, but lets go of it only in sweeps, which come seconds
// later and, when the wall clock has jumped ahead, not at all.
func (e *entry) stay(keep time.Duration) {
	e.secret.Retain() // the flight has a reference
	e.staying.Store(true)
	e.end.Store(time.AfterFunc(keep, e.leave))
}

// leave gives up that reference, once. Readers keep theirs.
func (e *entry) leave() {
	if !e.staying.Swap(false) {
		return
	}
	if end := e.end.Load(); end != nil {
		end.Stop()
	}
	e.secret.Release()
}

// refreshIsDue reports whether a hit would start a refresh.
func (e *entry) refreshIsDue(now time.Time) bool { return e.reached(e.refreshAt.Load(), now) }

// reached reports whether the entry is as old as a refreshAt.
func (e *entry) reached(at int64, now time.Time) bool {
	return at != neverRefresh && int64(elapsed(e.asOf, now)) >= at
}

// claimRefresh reports whether the caller, and nobody else, is to start a
// refresh.
func (e *entry) claimRefresh(now time.Time) bool {
	at := e.refreshAt.Load()
	return e.reached(at, now) && e.refreshAt.CompareAndSwap(at, neverRefresh)
}

// postponeRefresh gives up a claim: the next hit after wait may try again.
func (e *entry) postponeRefresh(now time.Time, wait time.Duration) {
	e.refreshAt.Store(max(e.refreshDue, int64(elapsed(e.asOf, now)+wait)))
}

// cost is what the entry takes in memory, in bytes. The payload counts twice:
// a JSON document is kept once more as its members.
func (e *entry) cost() int64 {
	k := &e.key
	names := len(k.Integration) + len(k.Revision) + len(k.Store) + len(k.Name) + len(k.Version)
	return int64(entryOverhead + names + 2*e.secret.Size())
}

// result makes an answer of a secret that has been retained for it.
func (e *entry) result(req *Request, source Source) Result {
	return Result{Secret: e.secret, Expires: e.asOf.Add(e.lifeFor(req)), Source: source}
}
