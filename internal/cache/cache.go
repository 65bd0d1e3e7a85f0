package cache

import (
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"math/bits"
	"sync"
	"time"

	"github.com/dgraph-io/ristretto/v2"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// Request is what one call wants and how old it may be.
type Request struct {
	Key Key
	// TTL is how long a value may be answered after its read began. It also
	// bounds the reads under way that the call may join. Zero keeps nothing.
	TTL time.Duration
	// MaxAge, if HasMaxAge, is the most that the read of the answer may have
	// begun before this call. Zero reads now.
	MaxAge    time.Duration
	HasMaxAge bool
	// MaxStale is how long past TTL a value may replace the answer of a store that cannot
	// be reached or that throttles, though never past the secret's own expiry nor
	// past MaxAge. Zero turns that off.
	MaxStale time.Duration
	// Account, if not nil, is whom the load is charged to if this call begins it.
	Account Account
}

// Account is the account that the Loader of a call charges its work to. The cache only
// notifies it of other calls that wait for its load.
// It must be safe for concurrent use.
type Account interface {
	// Join receives the Account of another call that waits for the load. It reports
	// whether the outcome counts for that call even if it is an ErrOwn.
	Join(other any) bool
}

// ErrOwn, in the chain of a Loader's error, means that the load failed because of the call
// that started it, for example because its budget is exhausted, and not because of the key
// or its store. The cache does not remember such a failure, and calls of other Accounts
// that shared the load start their own.
var ErrOwn = errors.New("cache: the load failed because of the call that started it")

// Source says where an answer came from.
type Source uint8

// The sources.
const (
	// Hit: from memory.
	Hit Source = iota
	// Miss: from a load that this call started.
	Miss
	// Shared: from a load that another call had started.
	Shared
	// Stale: from memory, past its expiry, because of an outage.
	Stale
)

func (s Source) String() string {
	switch s {
	case Hit:
		return "hit"
	case Miss:
		return "miss"
	case Shared:
		return "shared"
	default:
		return "stale"
	}
}

// Result is an answer.
type Result struct {
	// Secret is shared with other callers and immutable. The caller has a
	// reference to it and must Release it: it is wiped when the cache has given
	// it up and every caller has.
	Secret *secret.Secret
	// Expires is until when this read answers from memory: the end of TTL after
	// the read, or of the secret's own validity if that is sooner. It has passed
	// if Source is Stale.
	Expires time.Time
	Source  Source
}

// Loader reads the secret of one Key from its store. Its context is the cache's
// own: it carries nothing of any caller and ends with Config.LoadTimeout or
// Close, which a Loader must honour. It may be called after the Get that it was
// handed to has returned, so it must not use that call's context either.
//
// Errors should be *secret.Error and hold no value. The secret's FetchedAt must
// not lie before the Loader was called, and the cache takes over its first
// reference.
type Loader func(ctx context.Context) (*secret.Secret, error)

// Config is what a Cache needs to know. The zero value is useful.
type Config struct {
	// MaxBytes bounds the memory that entries take, as estimated; zero means 64
	// MiB. Leave room beyond the working set: a full cache may refuse new entries.
	// An entry of more than an eighth of it is never kept.
	MaxBytes int64
	// LoadTimeout bounds one load; zero means 10 seconds.
	LoadTimeout time.Duration
	// MinReadInterval is the least time between the starts of two loads of one
	// key where a MaxAge asks for the second; zero means 1 second.
	MinReadInterval time.Duration
	// NegativeTTL is how long a definite failure is remembered; zero means 5
	// seconds. Throttling is remembered for as long as the store asks, but no
	// longer than twice this; other outages and faults for 1 second.
	NegativeTTL time.Duration
	// RefreshAhead is the last part of an entry's life, as a fraction of it, in
	// which a hit starts a load in the background; zero means 0.2, negative turns
	// that off.
	RefreshAhead float64
	// Logger receives panics of loads; nil discards them.
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	if c.MaxBytes < 0 || c.LoadTimeout < 0 || c.MinReadInterval < 0 || c.NegativeTTL < 0 || c.RefreshAhead > 1 {
		return c, errors.New("cache: MaxBytes, LoadTimeout, MinReadInterval and NegativeTTL must not be negative, and RefreshAhead not above 1")
	}
	setDefault(&c.MaxBytes, 64<<20)
	setDefault(&c.LoadTimeout, 10*time.Second)
	setDefault(&c.MinReadInterval, time.Second)
	setDefault(&c.NegativeTTL, 5*time.Second)
	setDefault(&c.RefreshAhead, 0.2)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

func setDefault[T int64 | float64 | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// Cache answers requests for secrets from memory or from one shared load. It is
// safe for concurrent use and must be closed.
type Cache struct {
	cfg    Config
	seed   maphash.Seed
	store  *ristretto.Cache[uint64, *entry]
	expiry expiryQueue // of the entries in store
	count  counters

	// using is held for reading around every lookup on behalf of a caller and
	// guards closed: ristretto's Get must not run into its Close. Loads need no
	// such care, because Close waits for them.
	using  sync.RWMutex
	closed bool

	base   context.Context // of all loads; done when the cache closes
	cancel context.CancelFunc
	loads  sync.WaitGroup

	mu       sync.Mutex      // guards what follows; using may be taken under it
	flights  map[Key]*flight // the loads under way
	negative negativeCache
}

// New makes a Cache.
func New(cfg Config) (*Cache, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Cache{cfg: cfg, seed: maphash.MakeSeed(), flights: make(map[Key]*flight)}
	c.expiry.began, c.expiry.expired = time.Now(), c.bury
	if c.store, err = ristretto.NewCache(c.storeConfig()); err != nil {
		return nil, err
	}
	c.base, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

func (c *Cache) storeConfig() *ristretto.Config[uint64, *entry] {
	return &ristretto.Config[uint64, *entry]{
		NumCounters:        numCounters(c.cfg.MaxBytes),
		MaxCost:            c.cfg.MaxBytes,
		BufferItems:        64,
		IgnoreInternalCost: true, // cost includes it
		KeyToHash:          func(h uint64) (uint64, uint64) { return h, 0 },
		OnEvict: func(item *ristretto.Item[*entry]) {
			if item.Cost > 0 { // what is cleared comes here too, without one
				c.count.evictions.Add(1)
			}
		},
		OnExit: func(e *entry) {
			if e != nil { // deleting what is not there comes here too
				c.count.entries.Add(-1)
				c.expiry.remove(e)
			}
		},
	}
}

// numCounters is how many keys ristretto counts the uses of, to tell whom to keep
// when the cache is full. For each it takes 3.6 bytes if their number is five sixths
// of a power of two, else up to twice as much, because it rounds up both its tables.
// This is such a number: 4 to 7 for each KiB, 1.2 to 2.4 % of maxBytes. Ten for each
// entry, which ristretto advises, find some 3 % more of a working set that is ten
// times the cache than two for each entry do, twenty no more than ten.
func numCounters(maxBytes int64) int64 {
	most := max(maxBytes/128, 1200)
	return (1 << (bits.Len64(uint64(most)) - 1)) * 5 / 6
}

// Close cancels the loads under way, waits for them and wipes every value that no
// caller still has a reference to. Calls that are waiting, and later ones, fail
// with ReasonStoreUnavailable.
func (c *Cache) Close() {
	c.mu.Lock()
	c.using.Lock()
	wasClosed := c.closed
	c.closed = true
	c.using.Unlock()
	c.mu.Unlock()
	if wasClosed {
		return
	}
	c.cancel()
	c.loads.Wait()
	c.store.Close()
	c.expiry.stop()
}

// Get answers req from memory or by load, of which at most one runs for each
// Key at any time. The error is a *secret.Error. Without one the caller must
// Release the Result's Secret.
//
// When ctx ends first, the load that the call waited for goes on, even if the
// deadline had passed before the call; the error has ReasonStoreUnavailable and
// wraps the context's. A deadline, but no cancellation, may be answered by a
// stale value instead if the last load of the Key that ended, within MaxStale,
// ended in an outage. A call that has to wait for its
// turn under MinReadInterval and cannot gets ReasonOverloaded, with the time to
// wait; it gets the error at once if its deadline is too near for the wait.
func (c *Cache) Get(ctx context.Context, req Request, load Loader) (Result, error) {
	now := time.Now()
	req.TTL, req.MaxAge = max(req.TTL, 0), max(req.MaxAge, 0)
	h := c.hash(&req.Key)
	e, age := c.lookup(h, &req.Key, now)
	if e == nil || !e.fresh(&req, age, age) || !e.secret.Retain() { // it may have expired meanwhile
		return c.wait(ctx, req, load, h, now)
	}
	c.count.hits.Add(1)
	if e.claimRefresh(age) {
		c.refresh(e, req, load, h, now)
	}
	return e.result(&req, Hit), nil
}

// Hit answers req if that takes nothing but a look into memory, and is false
// otherwise, also when it is time for a read ahead of expiry: then Get is due. With
// an answer the caller must Release the Result's Secret.
func (c *Cache) Hit(req *Request) (Result, bool) {
	now := time.Now()
	req.TTL, req.MaxAge = max(req.TTL, 0), max(req.MaxAge, 0)
	e, age := c.lookup(c.hash(&req.Key), &req.Key, now)
	if e == nil || e.refreshIsDue(age) || !e.fresh(req, age, age) || !e.secret.Retain() {
		return Result{}, false
	}
	c.count.hits.Add(1)
	return e.result(req, Hit), true
}

func (c *Cache) hash(k *Key) uint64 { return maphash.Comparable(c.seed, *k) }

// lookup returns the entry of key, however old, and its age by now, or nil.
func (c *Cache) lookup(h uint64, key *Key, now time.Time) (*entry, time.Duration) {
	c.using.RLock()
	defer c.using.RUnlock()
	if c.closed {
		return nil, 0
	}
	e := c.peek(h, key)
	if e == nil {
		return nil, 0
	}
	return e, e.age(now)
}

// peek is lookup for those whom Close waits for.
func (c *Cache) peek(h uint64, key *Key) *entry {
	e, ok := c.store.Get(h)
	if !ok || !e.is(key) { // another key of the same hash
		return nil
	}
	return e
}

// bury takes an expired entry out of ristretto.
func (c *Cache) bury(e *entry) {
	key := e.key()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed && c.flights[key] == nil { // that flight will see to it
		c.clean(c.hash(&key), &key)
	}
}

// clean takes the entry of key out of ristretto if it has expired. c.mu is held and
// no load of the key is under way, so that there is none that could be put there
// meanwhile.
func (c *Cache) clean(h uint64, key *Key) {
	if e := c.peek(h, key); e != nil && !c.expiry.has(e) {
		c.store.Del(h)
	}
}
