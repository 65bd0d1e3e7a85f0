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

// Request is the request of one call: a key, and how old the answer may be.
type Request struct {
	Key Key
	// Suffix, if not empty, must be the suffix of the secret's ARN, which tells secrets
	// apart that have had the same name. An entry with another suffix is no answer to the
	// request. Requests with and without it share the entry, but not the load.
	Suffix string
	// TTL limits the age of the answer, counted from the start of its read. The call
	// also joins only loads that started within TTL. With zero nothing is cached.
	TTL time.Duration
	// MaxAge, if HasMaxAge, limits how long before this call the read of the answer may
	// have started. Zero forces a new read.
	MaxAge    time.Duration
	HasMaxAge bool
	// ReadSince, unless zero, is the wall clock's time from which MaxAge was computed: a
	// read that began at exactly this time, which MaxAge just misses, may be the answer.
	ReadSince time.Time
	// MaxStale is how long after TTL the cached value may be the answer while the store
	// cannot be reached or throttles. The secret's own expiry and MaxAge still apply.
	// Zero disables stale answers.
	MaxStale time.Duration
	// Unresponsive, if not nil, reports whether the store of the Key is known not to
	// respond right now. Then a stale value is the answer at once. The cache calls it only
	// for requests with a MaxStale that need a load or start one. It must not block.
	Unresponsive func() bool
	// Account, if not nil, is charged for the load if this call starts it.
	Account Account
}

func (r *Request) loadKey() loadKey { return loadKey{r.Key, r.Suffix} }

func (r *Request) unresponsive() bool {
	return r.MaxStale > 0 && r.Unresponsive != nil && r.Unresponsive()
}

// Account is the account that the Loader of a call charges its work to. The cache only
// notifies it of other calls that wait for its load.
// It must be safe for concurrent use.
type Account interface {
	// Join receives the Account of another call that waits for the load. It reports
	// whether the outcome counts for that call even if it is an ErrOwn.
	Join(other any) bool
}

// ErrOwn means, in the chain of a Loader's error, that the load failed because of the call
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
	// Secret is shared with other callers and immutable. The caller has a reference to
	// it and must Release it. It is wiped when the cache and all callers have released
	// it.
	Secret *secret.Secret
	// Expires is the time until which the cache answers with this read: the end of TTL
	// after the read, or of the secret's own validity if that is earlier. It is in the
	// past if Source is Stale.
	Expires time.Time
	Source  Source
}

// Loader reads the secret of one Key from its store. Its context belongs to the cache: it
// has no values of a caller and ends with Config.LoadTimeout or Close, which a Loader must
// honour. The cache may call a Loader after the Get that passed it has returned, so a Loader
// must not use the context of that call.
//
// Errors should be of type *secret.Error and must not contain a value. The secret's
// FetchedAt must not be before the call of the Loader. The cache owns its first reference.
type Loader func(ctx context.Context) (*secret.Secret, error)

// Config configures a Cache. The zero value is useful.
type Config struct {
	// MaxBytes limits the estimated memory of the entries; zero means 64 MiB. Set it
	// larger than the working set: a full cache may refuse new entries. An entry larger
	// than an eighth of MaxBytes is never cached.
	MaxBytes int64
	// LoadTimeout limits the duration of one load; zero means 10 seconds.
	LoadTimeout time.Duration
	// MinReadInterval is the minimum time between the starts of two loads of one key, if
	// a MaxAge forces the second; zero means 1 second.
	MinReadInterval time.Duration
	// NegativeTTL is how long a definite failure is cached; zero means 5 seconds.
	// Throttling is cached for as long as the store requests, up to twice NegativeTTL,
	// and other outages and faults for 1 second.
	NegativeTTL time.Duration
	// RefreshAhead is the last fraction of an entry's lifetime in which a hit starts a
	// load in the background; zero means 0.2, and a negative value disables refreshes.
	RefreshAhead float64
	// Loaded, if not nil, is called at the end of every load, when later calls of Get see
	// its outcome and before the calls that wait for it get it. It must not block.
	Loaded func(Load)
	// Superseded, if not nil, reports whether a load saw an older state of a secret than is
	// known from elsewhere. It is called at the end of every load that succeeds, before its
	// outcome is visible. Such an outcome is not kept, and the calls that wait for it start
	// another load, up to three times. It must not block. Drop removes what was kept before.
	Superseded func(key *Key, version string, readAt time.Time) bool
	// Logger receives panics of loads; nil discards them.
	Logger *slog.Logger
}

// Load is the outcome of a load, without the value.
type Load struct {
	Key Key
	// Concerns reports whether the outcome is one for requests with a Suffix.
	Concerns func(suffix string) bool
	// Version and ExpiresAt are those of the secret; zero if the load failed.
	Version   string
	ExpiresAt time.Time
	// ReadAt is the start of the read, by the cache's clock.
	ReadAt time.Time
	Err    *secret.Error
}

func (c Config) withDefaults() (Config, error) {
	if c.MaxBytes < 0 || c.LoadTimeout < 0 || c.MinReadInterval < 0 || c.NegativeTTL < 0 || c.RefreshAhead > 1 {
		return c, errors.New("cache: MaxBytes, LoadTimeout, MinReadInterval and NegativeTTL must not be negative, and RefreshAhead must not exceed 1")
	}
	setDefault(&c.MaxBytes, 64<<20)
	setDefault(&c.LoadTimeout, 10*time.Second)
	setDefault(&c.MinReadInterval, time.Second)
	setDefault(&c.NegativeTTL, 5*time.Second)
	setDefault(&c.RefreshAhead, 0.2)
	if c.Loaded == nil {
		c.Loaded = func(Load) {}
	}
	if c.Superseded == nil {
		c.Superseded = func(*Key, string, time.Time) bool { return false }
	}
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

	// landing serializes the changes of one entry, by its hash. mu may be taken under it.
	landing [64]sync.Mutex

	mu       sync.Mutex          // guards what follows; using may be taken under it
	flights  map[loadKey]*flight // the loads under way
	suffixed int                 // how many of them have a suffix
	probes   map[origin]int      // how many of them are probes, by store; see maxProbes
	negative negativeCache
}

// New makes a Cache.
func New(cfg Config) (*Cache, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Cache{cfg: cfg, seed: maphash.MakeSeed(), flights: make(map[loadKey]*flight), probes: make(map[origin]int)}
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

// numCounters returns the number of keys whose uses ristretto counts, to decide which
// entries to keep when the cache is full. A counter takes 3.6 bytes if the number is five
// sixths of a power of two, and otherwise up to twice as much, because ristretto rounds up
// both its tables. The returned number is of this form: 4 to 7 counters per KiB, or 1.2 to
// 2.4 % of maxBytes. ristretto recommends ten counters per entry. For a working set of ten
// times the cache, ten give 3 % more hits than two, and twenty no more than ten.
func numCounters(maxBytes int64) int64 {
	limit := max(maxBytes/128, 1200)
	return (1 << (bits.Len64(uint64(limit)) - 1)) * 5 / 6
}

// Close cancels the loads in progress, waits for them, and releases all values; those
// without a reference of a caller are wiped. Waiting and later calls fail with
// ReasonStoreUnavailable.
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

// Get answers req from memory or with load. At most one load runs per Key at any time. The
// error is a *secret.Error. Without an error the caller must Release the Result's Secret.
//
// If MaxStale allows a cached value, Get returns it if the load ends in an outage or has
// taken half of the time until ctx's deadline, or at once if Unresponsive reports true. The load continues in the background; while the store does not respond, two loads
// per store do.
//
// If ctx ends first, the load continues, even if the deadline had passed before the call.
// The error then has ReasonStoreUnavailable and wraps the error of ctx. A call that is
// cancelled gets no value, and one with a deadline of less than 200 ms gets a stale one only
// if the last finished load of the Key ended in an outage or Unresponsive reports true.
//
// A call that must wait for MinReadInterval but cannot gets ReasonOverloaded with the time
// to wait. It gets the error at once if its deadline is too near for the wait.
func (c *Cache) Get(ctx context.Context, req Request, load Loader) (Result, error) {
	now := time.Now()
	req.TTL, req.MaxAge = max(req.TTL, 0), max(req.MaxAge, 0)
	h := c.hash(&req.Key)
	e, age := c.lookup(h, &req, now)
	if e == nil || !e.fresh(&req, age, age) || !e.secret.Retain() { // Retain fails if it has expired meanwhile
		return c.wait(ctx, req, load, h, now)
	}
	c.count.hits.Add(1)
	if e.claimRefresh(age) {
		c.refresh(e, req, load, h, now)
	}
	return e.result(&req, Hit), nil
}

// Hit answers req from memory. It returns false if the caller must call Get instead, because
// a load is needed or a refresh is due. With an answer the caller must Release the Result's
// Secret.
func (c *Cache) Hit(req *Request) (Result, bool) {
	now := time.Now()
	req.TTL, req.MaxAge = max(req.TTL, 0), max(req.MaxAge, 0)
	e, age := c.lookup(c.hash(&req.Key), req, now)
	if e == nil || e.refreshIsDue(age) || !e.fresh(req, age, age) || !e.secret.Retain() {
		return Result{}, false
	}
	c.count.hits.Add(1)
	return e.result(req, Hit), true
}

// Version returns the version of the cached secret of a key, whatever its age and suffix. ok
// is false if there is none.
func (c *Cache) Version(key *Key) (version string, ok bool) {
	e, _ := c.lookup(c.hash(key), &Request{Key: *key}, time.Now())
	if e == nil {
		return "", false
	}
	return e.secret.Version, true
}

func (c *Cache) hash(k *Key) uint64 { return maphash.Comparable(c.seed, *k) }

// loadHash returns the hash of a loadKey, if that of its Key is h.
func (c *Cache) loadHash(h uint64, suffix string) uint64 {
	if suffix == "" {
		return h
	}
	return h ^ maphash.String(c.seed, suffix)
}

// lookup returns the entry of the request's secret, whatever its age, and its age at now,
// or nil.
func (c *Cache) lookup(h uint64, req *Request, now time.Time) (*entry, time.Duration) {
	c.using.RLock()
	defer c.using.RUnlock()
	if c.closed {
		return nil, 0
	}
	e := c.peek(h, &req.Key)
	if e == nil || !e.secret.HasSuffix(req.Suffix) {
		return nil, 0
	}
	return e, e.age(now)
}

// peek is lookup for goroutines that Close waits for: they need no lock.
func (c *Cache) peek(h uint64, key *Key) *entry {
	e, ok := c.store.Get(h)
	if !ok || !e.is(key) { // another key with the same hash
		return nil
	}
	return e
}

// bury removes an expired entry from ristretto.
func (c *Cache) bury(e *entry) {
	key := e.key()
	h := c.hash(&key)
	landing := c.landingOf(h)
	landing.Lock()
	defer landing.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.clean(h, &key)
	}
}

// landingOf returns the mutex that the caller must hold to change the entry with the hash.
func (c *Cache) landingOf(h uint64) *sync.Mutex { return &c.landing[h%uint64(len(c.landing))] }

// clean removes the entry of key from ristretto if it has expired. The caller holds c.mu and
// landingOf(h).
func (c *Cache) clean(h uint64, key *Key) {
	if e := c.peek(h, key); e != nil && !c.expiry.has(e) {
		c.store.Del(h)
	}
}
