package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/secretbroker/secretbroker/internal/elapsed"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// flight is one load in progress and the calls that wait for it. It ends when done is
// closed; the fields below done may be read from then on.
//
// The load and every call that gets its outcome hold the flight. The last holder releases
// the flight's reference to the secret, so that a value that is not cached is wiped after
// its last reader.
type flight struct {
	key      loadKey
	hash     uint64 // of key.Key
	ttl      time.Duration
	maxStale time.Duration
	load     Loader
	account  Account
	started  time.Time

	holders atomic.Int64 // incremented under Cache.mu, while the load is a holder
	probe   bool         // it is counted in Cache.probes; guarded by Cache.mu
	// passed reports that a load of the same Key with another suffix has begun before the
	// end of this one and has succeeded meanwhile. It is written under Cache.mu and
	// Cache.landingOf(hash), and read under either.
	passed bool
	// obsolete reports that the integration has another Revision now; see Cache.Revise.
	// landingOf(hash) guards it.
	obsolete bool
	// superseded reports that Config.Superseded did. It may be read when done is closed.
	superseded bool

	done   chan struct{}
	secret *secret.Secret // the result of the load; entry may have a newer one
	entry  *entry         // nil after a failure; the flight has a reference to its secret
	err    *secret.Error  // nil after a success
}

// join notifies the flight's Account of a call that waits. It reports whether
// the outcome answers the call even if it is an ErrOwn.
func (f *flight) join(account Account) bool {
	return f.account == nil || account == nil || f.account.Join(account)
}

// part ends one hold of the flight.
func (f *flight) part() {
	if f.holders.Add(-1) == 0 && f.entry != nil {
		f.entry.secret.Release()
	}
}

// next decides under the lock what a call does next, and starts its load if needed.
func (c *Cache) next(req *Request, load Loader, h uint64, arrival time.Time) step {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return step{err: errClosed}
	}
	now := time.Now()
	// A load may have ended since the last lookup. One that ends later is still in
	// flights: it is removed only after its entry is visible.
	if e, age := c.lookup(h, req, now); e != nil && e.fresh(req, e.age(arrival), age) && e.secret.Retain() {
		return step{entry: e}
	}
	if f := c.flights[req.loadKey()]; f != nil {
		if !f.joinable(req, arrival) || f.passed { // after it, the call may need another one
			return step{flight: f}
		}
		c.count.shared.Add(1)
		f.holders.Add(1)
		return step{flight: f, outcome: true, source: Shared}
	}
	if last := c.last(h, req, now); last != nil {
		knows := !req.HasMaxAge || elapsed.Between(last.started, arrival) <= req.MaxAge
		if last.failure != nil && now.Before(last.failure.until) && knows {
			c.count.negative.Add(1)
			return step{err: last.failure.errorAt(now)}
		}
		if pause := c.pauseAfter(last, now); req.HasMaxAge && pause > 0 {
			c.count.paced.Add(1)
			return step{pause: pause}
		}
	}
	c.count.misses.Add(1)
	return step{flight: c.start(req, load, h, now, 1), outcome: true, source: Miss}
}

// last returns the latest finished load that the request would repeat, or nil. The caller
// holds c.mu.
func (c *Cache) last(h uint64, req *Request, now time.Time) *lastLoad {
	key := req.loadKey()
	return c.negative.get(c.loadHash(h, req.Suffix), &key, now)
}

// joinable reports whether the outcome will be recent enough for a request that arrived at
// arrival.
func (f *flight) joinable(req *Request, arrival time.Time) bool {
	within := req.TTL
	if req.HasMaxAge {
		within = min(within, req.MaxAge)
	}
	return elapsed.Between(f.started, arrival) <= within || elapsed.Between(f.started, arrival) <= req.TTL && req.readSince(f.started)
}

// pauseAfter returns how long the next load must wait after the last one.
func (c *Cache) pauseAfter(last *lastLoad, now time.Time) time.Duration {
	return last.started.Add(c.cfg.MinReadInterval).Sub(now)
}

// refresh starts a load in the background, after a successful claimRefresh of the entry.
func (c *Cache) refresh(e *entry, req Request, load Loader, h uint64, now time.Time) {
	probe := req.unresponsive()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.flights[req.loadKey()] != nil { // the flight replaces the entry
		return
	}
	if probe && c.probes[req.Key.origin()] >= maxProbes {
		c.postponeRefresh(e, now, outageTTL)
		return
	}
	if last := c.last(h, &req, now); last != nil {
		if pause := c.pauseAfter(last, now); pause > 0 {
			c.postponeRefresh(e, now, pause)
			return
		}
	}
	c.count.refreshes.Add(1)
	f := c.start(&req, load, h, now, 0)
	if probe {
		c.countProbe(f)
	}
}

// maxProbes is the maximum number of loads per store that run in the background while the
// store does not respond, for integrations that permit stale values. They find out when it
// responds again; more of them would only wait.
const maxProbes = 2

// probe starts a load in the background for a call that got a stale value because the store
// does not respond, unless enough of them are running.
func (c *Cache) probe(req *Request, load Loader, h uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	origin, now := req.Key.origin(), time.Now()
	if c.closed || c.probes[origin] >= maxProbes || c.flights[req.loadKey()] != nil {
		return
	}
	if last := c.last(h, req, now); last != nil {
		if last.failure != nil && now.Before(last.failure.until) || c.pauseAfter(last, now) > 0 {
			return
		}
	}
	c.count.refreshes.Add(1)
	c.countProbe(c.start(req, load, h, now, 0))
}

// countProbe counts a new flight as a probe. The caller holds c.mu.
func (c *Cache) countProbe(f *flight) {
	f.probe = true
	c.probes[f.key.origin()]++
}

// probed ends the count of a flight as a probe. The caller holds c.mu.
func (c *Cache) probed(f *flight) {
	if !f.probe {
		return
	}
	origin := f.key.origin()
	if c.probes[origin]--; c.probes[origin] == 0 {
		delete(c.probes, origin)
	}
}

// start starts a load that the given number of calls hold. The caller holds c.mu, the cache
// is open, and no load of the key is in progress.
func (c *Cache) start(req *Request, load Loader, h uint64, now time.Time, calls int64) *flight {
	f := &flight{
		key: req.loadKey(), hash: h, ttl: req.TTL, maxStale: req.MaxStale,
		load: load, account: req.Account, started: now, done: make(chan struct{}),
	}
	f.holders.Store(1 + calls)
	c.count.loads.Add(1)
	c.flights[f.key] = f
	if f.key.suffix != "" {
		c.suffixed++
	}
	c.loads.Go(func() {
		defer f.part()
		defer c.land(f) // whatever the loader does
		f.secret, f.err = c.read(f)
	})
	return f
}

// land ends a flight. Every lookup after that sees the new entry or none, and
// never an older one.
func (c *Cache) land(f *flight) {
	if f.secret == nil && f.err == nil {
		f.err = secret.AsError(errors.New("cache: the load ended with neither a secret nor an error"))
	}
	landing := c.landingOf(f.hash)
	landing.Lock()
	now := time.Now()
	last := &lastLoad{hash: c.loadHash(f.hash, f.key.suffix), started: f.started, until: f.started.Add(c.cfg.MinReadInterval)}
	if f.err == nil {
		f.entry = c.keep(f, f.secret, now)
		last.key = loadKey{f.entry.key(), strings.Clone(f.key.suffix)}
	} else {
		last.key = f.key.clone()
		c.count.failures.Add(1)
		remember := c.rememberFor(f.err)
		last.failure = &failure{err: f.err, at: now, until: now.Add(remember)}
		last.remember(last.failure.until)
		if classes[f.err.Reason] == outage {
			// The next load may take longer to fail than its callers can wait.
			last.remember(now.Add(f.maxStale))
		}
		// An entry with another suffix is another secret.
		e := c.peek(f.hash, &f.key.Key)
		switch ours := e == nil || e.secret.HasSuffix(f.key.suffix); {
		case ours && classes[f.err.Reason] == definite:
			c.drop(f.hash)
		case ours && e != nil:
			c.postponeRefresh(e, now, remember)
		}
	}
	c.mu.Lock()
	c.landed(f)
	c.probed(f)
	if f.err == nil || !errors.Is(f.err, ErrOwn) { // ErrOwn says nothing about the key
		c.negative.put(last, now)
	}
	c.clean(f.hash, &f.key.Key) // the entry may have expired during the flight
	c.mu.Unlock()
	landing.Unlock()
	c.report(f)
	close(f.done)
}

// landed removes the flight from those in progress. The caller holds c.mu and
// landingOf(f.hash).
func (c *Cache) landed(f *flight) {
	delete(c.flights, f.key)
	if c.suffixed > 0 && f.err == nil { // otherwise each Key has one flight
		for key, other := range c.flights {
			if other.hash == f.hash && key.Key == f.key.Key {
				other.passed = true
			}
		}
	}
	if f.key.suffix != "" {
		c.suffixed--
	}
}

// report calls Config.Loaded, unless the outcome says nothing about the key.
func (c *Cache) report(f *flight) {
	if f.superseded {
		return
	}
	if f.err == nil {
		s := f.entry.secret
		c.cfg.Loaded(Load{Key: f.key.Key, Concerns: s.HasSuffix, Version: s.Version, ExpiresAt: s.ExpiresAt, ReadAt: s.FetchedAt})
	} else if !errors.Is(f.err, ErrOwn) {
		c.cfg.Loaded(Load{Key: f.key.Key, Concerns: func(suffix string) bool { return suffix == f.key.suffix }, ReadAt: f.started, Err: f.err})
	}
}

// read calls the loader with the cache's own deadline. A panic fails only this load. Its
// value is not logged, because it may contain a secret.
func (c *Cache) read(f *flight) (s *secret.Secret, err *secret.Error) {
	ctx, cancel := context.WithTimeout(c.base, c.cfg.LoadTimeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			cause := fmt.Errorf("cache: the load panicked with a %T", p)
			c.cfg.Logger.LogAttrs(c.base, slog.LevelError, "a read of a store panicked",
				slog.String("panic_type", fmt.Sprintf("%T", p)), slog.String("integration_id", f.key.Integration), slog.String("store", f.key.Store),
				slog.String("stack", string(debug.Stack())))
			s, err = nil, secret.AsError(cause)
		}
	}()
	s, loadErr := f.load(ctx)
	if loadErr != nil {
		s.Release()
		return nil, c.loadError(ctx, loadErr)
	}
	if s != nil && !s.ExpiresAt.IsZero() && !time.Now().Before(s.ExpiresAt) {
		s.Release()
		return nil, secret.Errorf(secret.ReasonSecretExpired, "the secret has expired; set a new version or change its expiry")
	}
	return s, nil
}

// keep replaces the cached entry with the new secret, unless the entry is newer, and returns
// the newer of the two. A newer entry with another suffix remains, but is not returned to a
// load that asked for a suffix. keep takes the load's reference to the secret, and gives the flight a
// reference to the secret of the returned entry.
func (c *Cache) keep(f *flight, s *secret.Secret, now time.Time) *entry {
	e := newEntry(f.key.Key, s, f.ttl, c.cfg.RefreshAhead, f.started, now)
	old := c.peek(f.hash, &f.key.Key)
	if old != nil && old.secret.FetchedAt.After(e.secret.FetchedAt) && old.secret.Retain() {
		if !old.secret.HasSuffix(f.key.suffix) {
			old.secret.Release()
			return e
		}
		e.secret.Release()
		c.postponeRefresh(old, now, outageTTL)
		return old
	}
	if c.cfg.Superseded(&f.key.Key, e.secret.Version, e.secret.FetchedAt) {
		f.superseded = true
		return e // an older entry was dropped, or is newer than its read tells
	}
	if f.obsolete {
		return e
	}
	if f.passed && (old == nil || old.secret.Version != e.secret.Version) {
		// The reads overlapped, so their beginnings do not tell which version is newer, and a
		// caller may have got either. The next read begins after both.
		c.drop(f.hash)
		return e
	}
	// Do not update in place: ristretto does not evict others for an entry that grows.
	// Del takes effect at once, so from here on no lookup returns the older one.
	c.store.Del(f.hash)
	keep, cost := e.keepFor(f.maxStale, now), e.cost()
	if keep <= 0 {
		return e
	}
	if cost > c.cfg.MaxBytes/8 {
		c.count.rejected.Add(1)
		return e
	}
	c.expiry.add(e, keep)
	c.count.entries.Add(1)
	if !c.store.Set(f.hash, e, cost) {
		c.expiry.remove(e)
		c.count.entries.Add(-1) // ristretto calls OnExit for all entries except these
		c.count.dropped.Add(1)
		return e
	}
	c.store.Wait()
	if visible, ok := c.store.Get(f.hash); !ok || visible != e {
		c.count.rejected.Add(1)
		c.drop(f.hash) // whatever entry is there instead
	}
	return e
}
