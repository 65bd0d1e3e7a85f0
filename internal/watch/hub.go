package watch

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Reader decides and reads for a Hub. It must be safe for concurrent use.
type Reader interface {
	// Decide decides whether who may watch a secret through an integration. It must not
	// wait for a store.
	Decide(who authz.Principal, integrationID string, ref secret.Ref) Decision
	// Read reads a secret, or gets it from the cache if now is false. The read is charged
	// to the caller, which is "" for the Hub itself. ok is false if there is no such
	// integration.
	Read(ctx context.Context, caller authz.Principal, integrationID string, ref secret.Ref, now bool) (load cache.Load, ok bool)
}

// Decision is the answer to "may this caller watch this secret?".
type Decision struct {
	// Denied, if not nil, is why not.
	Denied *secret.Error
	// Unreadable, if not nil, is why the caller, which may watch the secret, cannot be told
	// about it.
	Unreadable *secret.Error
	// Temporary means that no decision is possible now, which Unreadable explains.
	Temporary bool
	// GrantID is the id of the grant that allows it; "" if a role does.
	GrantID string
	// IntegrationRevision is the Revision of the integration that decided; "" without one.
	IntegrationRevision string
	// Generated means that a read of the secret may create another credential, so it is read
	// only through the cache.
	Generated bool
	// ReadRevision is that of the integration, Store the canonical name of the store, as
	// in a cache.Key, and Interval the time after which the secret is read again. They are
	// set if Denied and Unreadable are nil.
	ReadRevision, Store string
	Interval            time.Duration
	// Poll is the time after which a Peeker is asked for the version; 0 for never.
	Poll time.Duration
	// Scheme is the way in which versions are computed, which Config.Share gets.
	Scheme string
}

// Config configures a Hub. A field that is zero has its default.
type Config struct {
	// Splay is the time over which the notices of one change are spread: 0 for none.
	Splay time.Duration
	// ExpiryLead is how long before the end of a secret's validity its watchers are told:
	// 24 hours by default.
	ExpiryLead time.Duration
	// MaxItems and MaxItemsPerPrincipal limit the items of all streams and of those of one
	// principal: 200,000 and 20,000 by default. MaxSecretsPerPrincipal limits the distinct
	// secrets of one principal: 2,000 by default.
	MaxItems, MaxItemsPerPrincipal, MaxSecretsPerPrincipal int
	// MaxReadsPerSecond limits the reads that the Hub begins: 100 by default. Beyond it,
	// secrets are read later than their time-to-live.
	MaxReadsPerSecond int
	// Lag, if not nil, is called for every notice of a change, with the time since the Hub
	// learned of the change.
	Lag func(time.Duration)
	// Share, if not nil, is called for each read of a watched secret that saw a version. Other
	// replicas take the read, which began at readAt, in place of one of their own. The result
	// says which replica is to read the secret after the interval. It must not block.
	Share func(k Key, scheme, version string, readAt time.Time, interval time.Duration) Turn
	// Changed, if not nil, is called when a watched secret has another version than before;
	// store is its canonical name. It is not called for references with a version. It must
	// not block or call the Hub.
	Changed func(integrationID, store, name string)
}

const (
	defaultExpiryLead = 24 * time.Hour
	defaultItems      = 200_000
	defaultPerCaller  = 20_000
	defaultSecrets    = 2_000
	defaultReads      = 100
)

func setDefault[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Hub knows which secrets are watched, and notices their changes. It is safe for concurrent
// use. Run must run for it to notice anything.
type Hub struct {
	cfg    Config
	reader Reader
	peeker Peeker // nil if the Reader is none
	rate   *rate.Limiter
	wake   chan struct{} // of Run; capacity 1
	opened chan struct{} // see Opened; capacity 1
	reads  sync.WaitGroup
	began  time.Time

	mu      sync.Mutex
	targets map[Key]*target
	// loads has the targets that are read, by the Key of their loads without its Revision.
	// References in several forms are several targets of one load.
	loads map[Key]map[*target]struct{}
	// names has the targets that are read, by the Key of their loads without its Revision and
	// Version.
	names map[Key]map[*target]struct{}
	// of has the targets of each integration.
	of       map[string]map[*target]struct{}
	watchers map[authz.Principal]*watcher
	items    int
	kept     map[*target]struct{} // see keep
	due      dueHeap
	lanes    map[laneKey]*lane
	busy     map[*lane]struct{} // lanes with waiting reads
	stats    Stats
}

// Key identifies a watched secret.
type Key struct{ Integration, Store, Name, Version string }

// KeyOf returns the Key of a secret.
func KeyOf(integrationID string, ref *secret.Ref) Key {
	return Key{integrationID, ref.Store, ref.FullName(), ref.Version}
}

// watcher is what one principal watches.
type watcher struct {
	streams, items int
	secrets        map[*target]int // number of items
}

// New returns a Hub. SetReader must be called before its use.
func New(cfg Config) *Hub {
	setDefault(&cfg.ExpiryLead, defaultExpiryLead)
	setDefault(&cfg.MaxItems, defaultItems)
	setDefault(&cfg.MaxItemsPerPrincipal, defaultPerCaller)
	setDefault(&cfg.MaxSecretsPerPrincipal, defaultSecrets)
	setDefault(&cfg.MaxReadsPerSecond, defaultReads)
	if cfg.Changed == nil {
		cfg.Changed = func(string, string, string) {}
	}
	if cfg.Lag == nil {
		cfg.Lag = func(time.Duration) {}
	}
	if cfg.Share == nil {
		cfg.Share = func(Key, string, string, time.Time, time.Duration) Turn { return Alone }
	}
	return &Hub{
		cfg: cfg, rate: rate.NewLimiter(rate.Limit(cfg.MaxReadsPerSecond), cfg.MaxReadsPerSecond), wake: make(chan struct{}, 1), opened: make(chan struct{}, 1), began: time.Now(), kept: make(map[*target]struct{}),
		targets: make(map[Key]*target), loads: make(map[Key]map[*target]struct{}), names: make(map[Key]map[*target]struct{}), of: make(map[string]map[*target]struct{}), watchers: make(map[authz.Principal]*watcher),
		lanes: make(map[laneKey]*lane), busy: make(map[*lane]struct{}),
	}
}

// SetReader sets the Reader, before the Hub is used: the Reader is made from the cache,
// which the Hub is told about.
func (h *Hub) SetReader(r Reader) {
	h.reader = r
	h.peeker, _ = r.(Peeker)
}

// LimitError is the error of an Open that exceeds a limit. Setting is its name in
// secretbroker.yaml.
type LimitError struct{ Setting string }

func (e *LimitError) Error() string { return fmt.Sprintf("watch: more than %s allows", e.Setting) }

// Item is one config to watch.
type Item struct {
	IntegrationID string
	Ref           secret.Ref
	// Known is the version that the caller has; "" for none.
	Known string
}

// Open begins to watch items for a caller. The caller closes the Stream. The error is a
// *LimitError.
func (h *Hub) Open(who authz.Principal, items []Item) (*Stream, error) {
	s := newStream(h, who, len(items))
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.watchers[who]
	if w == nil {
		w = &watcher{secrets: make(map[*target]int)}
		h.watchers[who] = w
	}
	w.streams++
	var over string
	switch {
	case h.items+len(items) > h.mostItems(w.items+len(items)):
		over = "watch.max_items"
	case w.items+len(items) > h.cfg.MaxItemsPerPrincipal:
		over = "watch.max_items_per_principal"
	}
	if over == "" {
		for i := range items {
			h.add(s, w, &items[i])
		}
		if len(w.secrets) > h.cfg.MaxSecretsPerPrincipal {
			over = "watch.max_secrets_per_principal"
		}
	}
	if over != "" {
		h.remove(s)
		return nil, &LimitError{over}
	}
	return s, nil
}

// mostItems returns how many items of all principals there may be when one of them has n. One
// in eight is only for principals that have at most a 64th of all.
func (h *Hub) mostItems(n int) int {
	if n <= max(1, h.cfg.MaxItems/64) {
		return h.cfg.MaxItems
	}
	return h.cfg.MaxItems - h.cfg.MaxItems/8
}

// add adds an item to a stream. It requires the lock.
func (h *Hub) add(s *Stream, w *watcher, in *Item) {
	key := KeyOf(in.IntegrationID, &in.Ref)
	t := h.targets[key]
	if t == nil {
		t = &target{key: key, ref: in.Ref.Secret(), index: -1}
		h.targets[key] = t
		if h.of[key.Integration] == nil {
			h.of[key.Integration] = make(map[*target]struct{})
		}
		h.of[key.Integration][t] = struct{}{}
	}
	s.items = append(s.items, item{stream: s, target: t, index: len(s.items), at: len(t.items), key: in.Ref.Key, decoding: in.Ref.Decoding, version: in.Known})
	it := &s.items[len(s.items)-1]
	t.items = append(t.items, it)
	h.items++
	w.items++
	w.secrets[t]++
	s.mark(it)
}

// remove ends a stream. It requires the lock.
func (h *Hub) remove(s *Stream) {
	w := h.watchers[s.who]
	for i := range s.items {
		it := &s.items[i]
		t := it.target
		h.disallow(it)
		last := t.items[len(t.items)-1]
		t.items[it.at], last.at = last, it.at
		t.items[len(t.items)-1] = nil
		t.items = t.items[:len(t.items)-1]
		if w.secrets[t]--; w.secrets[t] == 0 {
			delete(w.secrets, t)
		}
		h.items--
		w.items--
		if len(t.items) == 0 && !t.kept {
			h.drop(t)
		}
	}
	s.items = nil
	if w.streams--; w.streams == 0 {
		delete(h.watchers, s.who)
	}
}

// drop forgets a target without items. It requires the lock.
func (h *Hub) drop(t *target) {
	delete(h.targets, t.key)
	delete(h.of[t.key.Integration], t)
	if len(h.of[t.key.Integration]) == 0 {
		delete(h.of, t.key.Integration)
	}
	h.schedule(t, time.Time{})
}

// Loaded tells the Hub of a load of the cache; it is a cache.Config.Loaded.
func (h *Hub) Loaded(load cache.Load) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for t := range h.loads[Key{load.Key.Integration, load.Key.Store, load.Key.Name, load.Key.Version}] {
		if load.Concerns(t.ref.Suffix) {
			h.observe(t, &load)
		}
	}
}

// IntegrationsChanged tells the Hub of integrations that were removed, and of new and
// changed ones. It must be called after decisions depend on the change.
func (h *Hub) IntegrationsChanged(removed, changed []*integration.Integration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, in := range removed {
		h.markAll(h.of[in.ID])
	}
	for _, in := range changed {
		h.markAll(h.of[in.ID])
		for t := range h.of[in.ID] {
			if t.allowed > 0 && t.known && t.revision != in.ReadRevision {
				h.readSoon(t)
			}
		}
	}
	h.poke()
}

// DecisionsChanged tells the Hub that decisions have changed about all integrations.
func (h *Hub) DecisionsChanged() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, all := range h.of {
		h.markAll(all)
	}
}

// markAll marks the items of targets. It requires the lock.
func (h *Hub) markAll(targets map[*target]struct{}) {
	for t := range targets {
		t.markItems()
	}
}

// Hint says that a secret may have changed: the Hub reads it now if it is watched and not
// generated, at most once per second. An empty name means every secret of the store, an empty store every
// store, and an empty id every integration.
func (h *Hub) Hint(integrationID, store, name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	hint := func(targets map[*target]struct{}) {
		for t := range targets {
			if !t.generated && (store == "" || t.key.Store == store) && (name == "" || t.key.Name == name || t.ref.Name == name) {
				h.readSoon(t)
			}
		}
	}
	if integrationID != "" {
		hint(h.of[integrationID])
	} else {
		for _, targets := range h.of {
			hint(targets)
		}
	}
	h.poke()
}

// Users returns the principals that watch secrets of an integration and may, sorted.
func (h *Hub) Users(integrationID string) []authz.Principal {
	h.mu.Lock()
	defer h.mu.Unlock()
	users := make(map[authz.Principal]struct{})
	for t := range h.of[integrationID] {
		for _, it := range t.items {
			if it.allowed {
				users[it.stream.who] = struct{}{}
			}
		}
	}
	return slices.Sorted(maps.Keys(users))
}

// AllUsers returns Users of all integrations that are watched.
func (h *Hub) AllUsers() map[string][]authz.Principal {
	h.mu.Lock()
	ids := slices.Collect(maps.Keys(h.of))
	h.mu.Unlock()
	all := make(map[string][]authz.Principal, len(ids))
	for _, id := range ids {
		if users := h.Users(id); len(users) > 0 {
			all[id] = users
		}
	}
	return all
}

// Opened has an element when AllUsers may have new users.
func (h *Hub) Opened() <-chan struct{} { return h.opened }

// poke wakes Run.
func (h *Hub) poke() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}
