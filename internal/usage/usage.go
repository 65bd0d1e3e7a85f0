// Package usage owns the account of who uses which integration: off the way of a
// call, in bounded memory, and written down in batches.
//
// It knows who, what and when, and never a value.
package usage

import (
	"context"
	"hash/maphash"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Config is what a Recorder is made of. Only Store is required.
type Config struct {
	Store registry.UsageStore
	// Interval is how often usage is written down; 0 means 5 s.
	Interval time.Duration
	// MaxEntries is how many different uses are told apart at a time; 0 means
	// 65,536. Callers choose the names of their connectors, so there has to be an
	// end.
	MaxEntries int
	// Logger is told when usage cannot be written down; nil discards.
	Logger *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

const (
	// shards keep callers out of each other's way.
	shards = 64
	// idle is how many intervals an entry is kept without being used.
	idle = 60
	// writeTime bounds one writing down.
	writeTime = 10 * time.Second
)

// Recorder counts uses. It is safe for concurrent use.
type Recorder struct {
	cfg     Config
	seed    maphash.Seed
	shards  [shards]shard
	entries atomic.Int64
	dropped atomic.Uint64
	failing atomic.Bool
}

type shard struct {
	mu      sync.RWMutex
	entries map[key]*entry
	_       [64]byte // a cache line, so that shards do not share one
}

// key tells uses apart.
type key struct {
	integration, connector string
	principal              authz.Principal
	store, secret, json    string
}

// entry is one use since the last writing down. Times are in nanoseconds since
// 1970.
type entry struct {
	first, last atomic.Int64 // first is 0 if it was not used since
	version     atomic.Pointer[string]
	quiet       int // intervals without a use; Run's
}

// New makes a Recorder, which Run runs.
func New(c Config) *Recorder {
	if c.Interval <= 0 {
		c.Interval = 5 * time.Second
	}
	if c.MaxEntries <= 0 {
		c.MaxEntries = 1 << 16
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	r := &Recorder{cfg: c, seed: maphash.MakeSeed()}
	for i := range r.shards {
		r.shards[i].entries = make(map[key]*entry)
	}
	return r
}

// Used notes that who was given a secret. It waits for nothing, and allocates
// only for what it sees for the first time in a while.
func (r *Recorder) Used(who authz.Principal, connector, integration string, ref secret.Ref, version string) {
	k := key{integration: integration, connector: connector, principal: who, store: ref.Store, secret: ref.Name, json: ref.Key}
	s := &r.shards[(maphash.String(r.seed, ref.Name)+maphash.String(r.seed, connector))%shards]
	s.mu.RLock()
	e := s.entries[k]
	if e != nil {
		e.note(r.cfg.Now().UnixNano(), version)
	}
	s.mu.RUnlock()
	if e == nil {
		r.add(s, k, version)
	}
}

func (e *entry) note(now int64, version string) {
	if v := e.version.Load(); v == nil || *v != version {
		own := strings.Clone(version)
		e.version.Store(&own)
	}
	e.last.Store(now)
	e.first.CompareAndSwap(0, now)
}

func (r *Recorder) add(s *shard, k key, version string) {
	if r.entries.Add(1) > int64(r.cfg.MaxEntries) {
		r.entries.Add(-1)
		r.dropped.Add(1)
		return
	}
	// The strings are parts of the request, which they would keep in memory.
	k = key{
		integration: strings.Clone(k.integration), connector: strings.Clone(k.connector), principal: authz.Principal(strings.Clone(string(k.principal))),
		store: strings.Clone(k.store), secret: strings.Clone(k.secret), json: strings.Clone(k.json),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[k]
	if e == nil {
		e = &entry{}
		s.entries[k] = e
	} else {
		r.entries.Add(-1)
	}
	e.note(r.cfg.Now().UnixNano(), version)
}

// Dropped is how many uses were not noted because there were too many different
// ones.
func (r *Recorder) Dropped() uint64 { return r.dropped.Load() }

// Entries is how many different uses are in memory.
func (r *Recorder) Entries() int { return int(r.entries.Load()) }

// Run writes usage down until ctx ends, and then once more. It is called once at
// most.
func (r *Recorder) Run(ctx context.Context) error {
	tick := time.NewTicker(r.cfg.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			r.flush(context.WithoutCancel(ctx))
			return nil
		case <-tick.C:
			r.flush(ctx)
		}
	}
}

// Flush writes down what has been noted so far.
func (r *Recorder) Flush(ctx context.Context) { r.flush(ctx) }

func (r *Recorder) flush(ctx context.Context) {
	var batch []registry.Usage
	var taken []*entry
	for i := range r.shards {
		batch, taken = r.take(&r.shards[i], batch, taken)
	}
	if len(batch) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, writeTime)
	defer cancel()
	err := r.cfg.Store.MergeUsage(ctx, batch)
	if err == nil {
		if r.failing.Swap(false) {
			r.cfg.Logger.Info("usage is written down again")
		}
		return
	}
	// Put back: the next time may be luckier.
	for i, e := range taken {
		giveBack(e, batch[i].FirstAt.UnixNano())
	}
	if !r.failing.Swap(true) {
		r.cfg.Logger.Warn("usage cannot be written down for now", "error", err)
	}
}

// giveBack makes first what it was, unless the entry is older still.
func giveBack(e *entry, first int64) {
	for {
		now := e.first.Load()
		if now != 0 && now <= first || e.first.CompareAndSwap(now, first) {
			return
		}
	}
}

// take adds what was used in a shard to batch, and forgets what has not been for
// long.
func (r *Recorder) take(s *shard, batch []registry.Usage, taken []*entry) ([]registry.Usage, []*entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, e := range s.entries {
		first := e.first.Swap(0)
		if first == 0 {
			if e.quiet++; e.quiet > idle {
				delete(s.entries, k)
				r.entries.Add(-1)
			}
			continue
		}
		e.quiet = 0
		batch = append(batch, registry.Usage{
			Integration: k.integration, Principal: k.principal, Connector: k.connector,
			Store: k.store, Secret: k.secret, Key: k.json, Version: *e.version.Load(),
			FirstAt: time.Unix(0, first).UTC(), LastAt: time.Unix(0, e.last.Load()).UTC(),
		})
		taken = append(taken, e)
	}
	return batch, taken
}
