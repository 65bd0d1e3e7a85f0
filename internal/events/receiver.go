package events

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Config configures a Receiver. Only Openers is required.
type Config struct {
	// Openers has an opener for each kind of store that has sources of events.
	Openers map[secret.Kind]provider.EventOpener
	// MaxSources is the maximum number of sources; 500 by default. Beyond it, sources are not
	// used, which Problems reports.
	MaxSources int
	// SharedQueues means that other replicas receive from the same queues, so that this one
	// gets only a part of the messages.
	SharedQueues func() bool
	// Delivered, if not nil, is called for each message with the time since it was put into
	// the queue.
	Delivered func(time.Duration)
	// Logger receives changes of the state of sources. Nil discards them.
	Logger *slog.Logger
}

// Integrations are the integrations that the broker serves; see registry.Store.
type Integrations interface {
	Get(id string) (*integration.Integration, error)
	List() []*integration.Integration
}

// Reader reads a secret as a watch.Reader does.
type Reader interface {
	Read(ctx context.Context, caller authz.Principal, integrationID string, ref secret.Ref, now bool) (load cache.Load, ok bool)
}

// Central is a source of events for many integrations.
type Central struct {
	// Integration has the settings of the source. Its stores limit the secrets that it may
	// name. No call is answered through it.
	Integration *integration.Integration
	// For reports whether the source is one for the integration with an id.
	For func(id string) bool
}

// Receiver receives the events of all sources. It is safe for concurrent use. Use must be
// called before Run.
type Receiver struct {
	cfg          Config
	integrations Integrations
	holder       Holder
	reader       Reader
	reads        *reads
	misses       *misses
	changed      chan struct{} // capacity 1: integrations or central sources have changed
	ended        sync.WaitGroup

	mu      sync.Mutex
	drained bool // no source is to run any more
	central []Central
	sources map[string]*source // by sourceID
	// ending are sources that were stopped and whose goroutine has not ended.
	ending map[string]*source
	left   int // number of sources beyond MaxSources

	index  sync.Mutex
	byName map[string][]string // the ids of the integrations that have a store under a name
	// stale is whether byName is out of date. IntegrationsChanged, which may be called with
	// locks of the registry, takes no lock.
	stale atomic.Bool

	totals [numOutcomes]atomic.Uint64 // the counts of all sources since the start
	missed atomic.Uint64
}

const defaultSources = 500

// New returns a Receiver.
func New(c Config) *Receiver {
	if c.MaxSources <= 0 {
		c.MaxSources = defaultSources
	}
	if c.SharedQueues == nil {
		c.SharedQueues = func() bool { return false }
	}
	if c.Delivered == nil {
		c.Delivered = func(time.Duration) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Receiver{cfg: c, reads: newReads(), misses: newMisses(), changed: make(chan struct{}, 1), sources: make(map[string]*source), ending: make(map[string]*source)}
	r.stale.Store(true)
	r.reads.perform = r.perform
	return r
}

// Use sets the parts of the broker that the Receiver uses.
func (r *Receiver) Use(integrations Integrations, holder Holder, reader Reader) {
	r.integrations, r.holder, r.reader = integrations, holder, reader
}

// SetCentral replaces the central sources.
func (r *Receiver) SetCentral(all []Central) {
	r.mu.Lock()
	r.central = all
	r.mu.Unlock()
	r.IntegrationsChanged()
}

// IntegrationsChanged tells the Receiver that integrations were added, changed or removed.
// It does not block.
func (r *Receiver) IntegrationsChanged() {
	r.stale.Store(true)
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// Drain stops all sources, so that another replica gets the messages. Reads continue. It does
// not wait.
func (r *Receiver) Drain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drained = true
	for _, s := range r.sources {
		s.cancel()
	}
}

const (
	// changeInterval is the minimum time between two comparisons of the sources with the
	// integrations.
	changeInterval = 100 * time.Millisecond
	// endTime is how long Run waits for its goroutines.
	endTime = 5 * time.Second
)

// Run receives events until ctx ends. It is called once. Sources that hang then are left
// behind after a few seconds.
func (r *Receiver) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.ended.Go(func() { r.reads.run(ctx) })
	r.ended.Go(func() { r.watchMisses(ctx) })
	for {
		r.reconcile(ctx)
		if !sleep(ctx, changeInterval) {
			break
		}
		select {
		case <-ctx.Done():
		case <-r.changed:
		}
	}
	all := make(chan struct{})
	go func() { // ends with the last source
		r.ended.Wait()
		close(all)
	}()
	timer := time.NewTimer(endTime)
	defer timer.Stop()
	select {
	case <-all:
	case <-timer.C:
		r.cfg.Logger.Warn("a source of events does not end; the broker stops without it")
	}
	return nil
}

// sleep waits for d and reports whether ctx is still valid.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// sourceID identifies a source among all of the broker.
func sourceID(central bool, id string) string {
	if central {
		return "central/" + id
	}
	return "integration/" + id
}

// wanted returns the sources that there should be, the most important first. A new one takes
// the place of no running one. It requires the lock.
func (r *Receiver) wanted(integrations []*integration.Integration) []*source {
	var all []*source
	for _, c := range r.central {
		all = append(all, &source{receiver: r, id: sourceID(true, c.Integration.ID), in: c.Integration, covers: c.For})
	}
	own := len(all)
	for _, in := range integrations {
		if in.EventSource() != "" && r.cfg.Openers[in.Kind] != nil {
			all = append(all, &source{receiver: r, id: sourceID(false, in.ID), in: in})
		}
	}
	waits := func(s *source) bool { return r.sources[s.id] == nil && r.ending[s.id] == nil }
	slices.SortStableFunc(all[own:], func(a, b *source) int { // local files change without events as well
		return cmp.Or(cmp.Compare(b2i(a.local()), b2i(b.local())), cmp.Compare(b2i(waits(a)), b2i(waits(b))))
	})
	return all
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// reconcile starts and stops sources so that there are those that are wanted.
func (r *Receiver) reconcile(ctx context.Context) {
	integrations := r.integrations.List()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.drained {
		return
	}
	all := r.wanted(integrations)
	r.left = max(len(all)-r.cfg.MaxSources, 0)
	keep := make(map[string]*source, len(all))
	for _, s := range all[:len(all)-r.left] {
		keep[s.id] = s
	}
	for id, s := range r.sources {
		if next := keep[id]; next == nil || next.in.ReadRevision != s.in.ReadRevision {
			s.cancel()
			delete(r.sources, id)
			r.ending[id] = s
		} else if s.central() {
			s.cover(next.covers)
		}
	}
	for id, s := range keep {
		if r.sources[id] == nil && r.ending[id] == nil { // the end of one with this id causes another call
			r.start(ctx, s)
		}
	}
}

// start starts a source. It requires the lock.
func (r *Receiver) start(ctx context.Context, s *source) {
	ctx, s.cancel = context.WithCancel(ctx)
	s.queue = newQueue(s.gaveUp)
	s.receives = rate.NewLimiter(receiveRate, receiveRate)
	s.checks = rate.NewLimiter(checkRate, checkRate)
	r.sources[s.id] = s
	r.ended.Go(func() {
		s.run(ctx)
		r.mu.Lock()
		if r.ending[s.id] == s {
			delete(r.ending, s.id)
		}
		r.mu.Unlock()
		r.IntegrationsChanged()
	})
}

// candidates returns the ids of the integrations that have a store under one of its names.
func (r *Receiver) candidates(store string) []string {
	r.index.Lock()
	defer r.index.Unlock()
	if r.stale.Swap(false) {
		byName := make(map[string][]string)
		for _, in := range r.integrations.List() {
			for _, name := range storesOf(in) {
				if ids := byName[name]; len(ids) == 0 || ids[len(ids)-1] != in.ID {
					byName[name] = append(ids, in.ID)
				}
			}
		}
		r.byName = byName
	}
	return r.byName[store]
}

// perform is reads.perform.
func (r *Receiver) perform(ctx context.Context, key secretKey, e *provider.Event, always bool) (outcome result, retryAfter time.Duration) {
	in, err := r.integrations.Get(key.integration)
	switch {
	case errors.Is(err, registry.ErrNotFound):
		return readDone, 0
	case err != nil:
		return readFailed, 0
	case !hasStore(in, key.store):
		return readDone, 0
	}
	// A read can begin minutes after the event, after those of many other secrets.
	r.misses.hear(changeKey{in.ID, key.store, key.name}, time.Now())
	for _, h := range r.holder.Held(in, e) {
		expected := ""
		if h.Ref.Version == currentLabel(e) {
			expected = e.Version
		}
		if !always && expected != "" && h.Version == expected {
			continue
		}
		load, ok := r.reader.Read(ctx, "", in.ID, h.Ref, true)
		switch {
		case !ok || load.Err != nil && load.Err.Reason.IsOutage():
			outcome = readFailed
			if load.Err != nil {
				retryAfter = max(retryAfter, load.Err.RetryAfter)
			}
		case expected != "" && (load.Err != nil || load.Version != expected) && outcome == readDone:
			outcome = readOutdated
		}
	}
	return outcome, retryAfter
}
