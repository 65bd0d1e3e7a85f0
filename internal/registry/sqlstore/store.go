package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/denial"
	"github.com/secretbroker/secretbroker/internal/elapsed"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/registry/seal"
)

// Config is the configuration of both databases. The zero value is usable, but without a
// Sealer credentials are rejected.
type Config struct {
	// Kinds are the supported kinds of stores.
	Kinds *integration.Kinds
	// Sealer seals credentials. If nil, credentials are rejected.
	Sealer seal.Sealer
	// Files are the files and directories that documents may refer to, see
	// integration.DocumentConfig.
	Files []string
	// MaxIntegrations is the maximum number of integrations; 0 means
	// registry.DefaultMaxIntegrations.
	MaxIntegrations int
	// MaxOutage is the maximum age of a snapshot that is served; 0 means registry.DefaultMaxOutage.
	MaxOutage time.Duration
	// PollInterval is the time between two looks without a notification; 0 means 500 ms.
	PollInterval time.Duration
	// UsageRetention is how long usage is kept after the last use; 0 means
	// registry.DefaultUsageRetention.
	UsageRetention time.Duration
	// Logger receives every change and fault. Nil discards them.
	Logger *slog.Logger
	// OnChange has the semantics of dirstore.Config.OnChange.
	OnChange func(removed, changed []*integration.Integration)
	// OnDenials, if not nil, is called with the deny list when it has been read for the
	// first time, before Open returns, and after each change. It must return quickly.
	OnDenials func(*denial.List)
	// Seen is the latest Position that an earlier process saw; zero if unknown.
	Seen registry.Position
	// OnRestored, if not nil, is called when the database has gone back to an earlier
	// state, after its content has taken effect, possibly before Open returns. It must not
	// call the Store and must return quickly.
	OnRestored func(registry.Restored)
	// Now is the clock; nil means time.Now.
	Now func() time.Time

	// program overrides the schema version of this release, for tests of mixed releases; 0
	// means this release's.
	program int
	// lifetime overrides how long a connection to PostgreSQL is used, for tests; 0 means
	// 30 to 60 s.
	lifetime time.Duration
	// upkeep overrides pruneInterval, for tests.
	upkeep time.Duration
	// probing overrides probeInterval, for tests.
	probing time.Duration
}

// filesInterval is the time between two checks of the files that documents refer to.
const filesInterval = 5 * time.Second

// Store is a registry.Store and a registry.UsageStore. It is safe for concurrent use.
type Store struct {
	cfg Config
	// db serves callers and maintenance. looks has one connection that is reserved for
	// looking at the database, so that no other work can keep a replica from seeing a
	// change.
	db, looks *sql.DB
	// polls has one connection that is reserved for sightings; nil with SQLite.
	polls *sql.DB
	d     *dialect
	link  link
	hosts int // number of PostgreSQL hosts, which are tried one after the other
	// listen, if not nil, calls wake with the channel of every notification from the
	// database, and with "" if there may have been one on any channel, until ctx ends or the
	// connection breaks. It returns nil when the connection has reached its lifetime.
	listen func(ctx context.Context, wake func(channel string)) error
	// sightings has an element after a notification of sightings. Capacity 1.
	sightings chan struct{}
	file      *dbFile // nil with PostgreSQL
	// logged is whether the schema has the change log, registry_changes.
	logged bool
	// uid is the column integrations.uid, or a constant if the schema does not have it.
	uid string
	// usageOnly: the database is that of a UsageFile.
	usageOnly bool
	// maxUsage is the constant of that name, but in tests.
	maxUsage int

	current atomic.Pointer[snapshot]
	roles   registry.RoleIndex
	seen    atomic.Pointer[time.Time]
	planned atomic.Pointer[schedule]
	outage  atomic.Pointer[string] // why the last look failed; nil if it succeeded
	// recent is the age up to which a snapshot is served without checking the schedule.
	recent time.Duration

	// turn is a semaphore of one: a goroutine that replaces current holds it.
	turn chan struct{}

	ctx   context.Context // canceled by Close
	stop  context.CancelFunc
	tasks sync.WaitGroup

	mu      sync.Mutex
	awaited chan struct{} // closed at the end of the look that calls wait for
	trouble map[string]string
}

var (
	_ registry.Store      = (*Store)(nil)
	_ registry.UsageStore = (*Store)(nil)
)

// newStore returns a Store that has not read anything yet.
func newStore(c Config, db, looks *sql.DB, d *dialect) *Store {
	c.MaxIntegrations = cmp.Or(c.MaxIntegrations, registry.DefaultMaxIntegrations)
	c.MaxOutage = cmp.Or(c.MaxOutage, registry.DefaultMaxOutage)
	c.PollInterval = cmp.Or(c.PollInterval, 500*time.Millisecond)
	c.UsageRetention = cmp.Or(c.UsageRetention, registry.DefaultUsageRetention)
	c.program = cmp.Or(c.program, latest())
	c.upkeep = cmp.Or(c.upkeep, pruneInterval)
	c.probing = cmp.Or(c.probing, probeInterval)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &Store{maxUsage: maxUsage, cfg: c, db: db, looks: looks, d: d, hosts: 1, turn: make(chan struct{}, 1), sightings: make(chan struct{}, 1), trouble: make(map[string]string)}
	s.logged = c.program >= changesVersion
	if s.uid = "uid"; c.program < uidVersion {
		s.uid = "''"
	}
	s.recent = min(c.MaxOutage, c.PollInterval+slack)
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.current.Store(&snapshot{revision: c.Seen.Revision, stamp: c.Seen.Stamp})
	return s
}

// start migrates the schema and reads all integrations.
func (s *Store) start(ctx context.Context) error {
	if err := migrate(ctx, s.db, s.d, s.cfg.program); err != nil {
		return fmt.Errorf("registry: migrating the tables of the %s database: %w", s.d.name, err)
	}
	onChange := s.cfg.OnChange
	s.cfg.OnChange = nil // the initial content is not a change
	err := s.refresh(ctx, time.Time{}, true)
	s.cfg.OnChange = onChange
	if err != nil {
		return fmt.Errorf("registry: reading the integrations from the %s database: %w", s.d.name, err)
	}
	return nil
}

// Close closes the database. List continues to work, and Get does for MaxOutage.
func (s *Store) Close() error {
	s.mu.Lock()
	s.stop()
	s.mu.Unlock()
	s.tasks.Wait()
	err := errors.Join(s.looks.Close(), s.db.Close())
	if s.polls != nil {
		err = errors.Join(err, s.polls.Close())
	}
	if s.file != nil {
		err = errors.Join(err, s.file.setAside())
	}
	return err
}

// Get implements registry.Store. It takes no lock unless the process was suspended.
func (s *Store) Get(id string) (*integration.Integration, error) {
	if !s.mayServe(s.cfg.Now()) {
		return nil, registry.ErrUnavailable
	}
	if k := s.current.Load().get(id); k != nil && k.serving != nil {
		return k.serving, nil
	}
	return nil, registry.ErrNotFound
}

// List implements registry.Store.
func (s *Store) List() []*integration.Integration { return slices.Clone(s.current.Load().sorted) }

// WithRole implements registry.Store.
func (s *Store) WithRole(who authz.Principal) ([]*integration.Integration, error) {
	if !s.mayServe(s.cfg.Now()) {
		return nil, registry.ErrUnavailable
	}
	return s.roles.Find(s.current.Load().sorted, who), nil
}

// Faults implements registry.Store. The File of a fault is the integration's id.
func (s *Store) Faults() []registry.FileFault { return slices.Clone(s.current.Load().faults) }

// Status implements registry.Store.
func (s *Store) Status() registry.Status {
	now, seen := s.cfg.Now(), *s.seen.Load()
	st := registry.Status{Backend: s.d.name, Writable: true, SeenAt: seen, WriteProblem: s.writeProblem()}
	age := elapsed.Between(seen, now)
	if why := s.outage.Load(); why != nil {
		st.Problem = "the integrations' database cannot be read: " + *why
	} else if age > s.recent && !s.onSchedule(now) {
		st.Problem = fmt.Sprintf("the integrations' database was last read %s ago", age.Round(time.Second))
	}
	if st.Refuses = age > s.cfg.MaxOutage; st.Refuses && st.Problem == "" {
		st.Problem = fmt.Sprintf("the integrations' database was last read %s ago", age.Round(time.Second))
	}
	if st.Problem != "" {
		st.RefusesAt = seen.Add(s.cfg.MaxOutage)
	}
	return st
}

// Reload implements registry.Store. It also seals credentials with the current key if the
// key file now names another one.
func (s *Store) Reload() {
	if s.follow(s.ctx, false) != nil {
		return
	}
	s.checkFiles()
	s.checkKeys()
	if _, err := s.Reseal(s.ctx); err != nil {
		s.cfg.Logger.Error("credentials are not sealed with the current key", "error", err)
	}
}

// unavailable returns the error that callers get for a database error.
func unavailable(err error) error { return fmt.Errorf("%w: %w", registry.ErrUnavailable, err) }
