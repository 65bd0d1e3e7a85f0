// Package sqlstore keeps integrations and their usage in a database: SQLite for
// one broker, PostgreSQL for many.
//
// It owns the tables, how they change from release to release, and how a change
// reaches every replica. What an integration is, and whether a document of one
// is acceptable, is registry's to say; how credentials are sealed is seal's.
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
	"github.com/secretbroker/secretbroker/internal/elapsed"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/registry/seal"
)

// Config is what both databases need. Its zero value is useful but for
// credentials, which are refused without a Sealer.
type Config struct {
	// Kinds are the kinds of stores that there are.
	Kinds *integration.Kinds
	// Sealer seals credentials; nil refuses them.
	Sealer seal.Sealer
	// Files are the files and directories that documents may name files of, see
	// integration.DocumentConfig.
	Files []string
	// MaxIntegrations is how many there may be; 0 means DefaultMaxIntegrations.
	MaxIntegrations int
	// MaxOutage is how old what was last seen may be to be served; 0 means
	// DefaultMaxOutage.
	MaxOutage time.Duration
	// PollInterval is how often Run looks for changes that it was not notified of;
	// 0 means 500 ms.
	PollInterval time.Duration
	// UsageRetention is how long usage is kept after the last use; 0 means
	// DefaultUsageRetention.
	UsageRetention time.Duration
	// Logger is told of every change and fault; nil discards.
	Logger *slog.Logger
	// OnChange is as that of dirstore.Config.
	OnChange func(removed, changed []*integration.Integration)
	// Seen is the Position that an earlier process saw last; zero if that is not
	// known.
	Seen Position
	// OnRestored, if not nil, is called when the database has gone back, after what
	// it holds has taken effect, and also while it is opened. It must not call the
	// Store, and returns soon.
	OnRestored func(Restored)
	// Now is the clock; nil means time.Now.
	Now func() time.Time

	// program is the schema version that the Store works with, for tests of
	// releases side by side; 0 means this release's.
	program int
	// lifetime is how long a connection to PostgreSQL is used, for tests; 0 means 30
	// to 60 s.
	lifetime time.Duration
	// upkeep is how often usage is pruned, for tests; 0 means pruneInterval.
	upkeep time.Duration
	// probing is how often it is tried whether the database takes writes, for tests;
	// 0 means probeInterval.
	probing time.Duration
}

// What holds for settings that are zero.
const (
	DefaultMaxIntegrations = 100
	DefaultMaxOutage       = 15 * time.Minute
	DefaultUsageRetention  = 90 * 24 * time.Hour
)

// filesInterval is how often files that documents name are looked at.
const filesInterval = 5 * time.Second

// Store is a registry.Store and a registry.UsageStore. It is safe for concurrent
// use.
type Store struct {
	cfg Config
	// db is for what callers and upkeep do. looks, one connection, is for looking at
	// the database alone, so that nothing keeps a replica from seeing a change.
	db, looks *sql.DB
	d         *dialect
	link      link
	hosts     int // of PostgreSQL, to be tried one after the other
	// listen, if not nil, calls wake whenever the database notifies of a change,
	// until ctx ends, the connection breaks or is old enough; then it returns nil.
	listen func(ctx context.Context, wake func()) error
	file   *dbFile // of SQLite, else nil
	// logged: the tables have registry_changes.
	logged bool
	// maxUsage is the constant of that name, but in tests.
	maxUsage int

	current atomic.Pointer[snapshot]
	roles   registry.RoleIndex
	seen    atomic.Pointer[time.Time]
	planned atomic.Pointer[schedule]
	outage  atomic.Pointer[string] // why the last look failed, nil if it did not
	// recent is the age up to which a snapshot is served without further thought.
	recent time.Duration

	// turn is held, by a value in it, by whoever replaces current.
	turn chan struct{}

	ctx   context.Context // ends with Close
	stop  context.CancelFunc
	tasks sync.WaitGroup

	mu      sync.Mutex
	awaited chan struct{} // closed when the look ends that calls wait for
	trouble map[string]string
}

var (
	_ registry.Store      = (*Store)(nil)
	_ registry.UsageStore = (*Store)(nil)
)

// newStore makes a Store that has read nothing yet.
func newStore(c Config, db, looks *sql.DB, d *dialect) *Store {
	c.MaxIntegrations = cmp.Or(c.MaxIntegrations, DefaultMaxIntegrations)
	c.MaxOutage = cmp.Or(c.MaxOutage, DefaultMaxOutage)
	c.PollInterval = cmp.Or(c.PollInterval, 500*time.Millisecond)
	c.UsageRetention = cmp.Or(c.UsageRetention, DefaultUsageRetention)
	c.program = cmp.Or(c.program, latest())
	c.upkeep = cmp.Or(c.upkeep, pruneInterval)
	c.probing = cmp.Or(c.probing, probeInterval)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &Store{maxUsage: maxUsage, cfg: c, db: db, looks: looks, d: d, hosts: 1, turn: make(chan struct{}, 1), trouble: make(map[string]string)}
	s.logged = c.program >= changesVersion
	s.recent = min(c.MaxOutage, c.PollInterval+slack)
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.current.Store(&snapshot{revision: c.Seen.Revision, stamp: c.Seen.Stamp})
	return s
}

// start brings the schema up to date and reads everything.
func (s *Store) start(ctx context.Context) error {
	if err := migrate(ctx, s.db, s.d, s.cfg.program); err != nil {
		return fmt.Errorf("registry: the tables of the %s database cannot be brought up to date: %w", s.d.name, err)
	}
	onChange := s.cfg.OnChange
	s.cfg.OnChange = nil // what is there at first is no change
	err := s.refresh(ctx, true)
	s.cfg.OnChange = onChange
	if err != nil {
		return fmt.Errorf("registry: the integrations cannot be read from the %s database: %w", s.d.name, err)
	}
	return nil
}

// Close closes the database. List goes on answering, Get for MaxOutage.
func (s *Store) Close() error {
	s.mu.Lock()
	s.stop()
	s.mu.Unlock()
	s.tasks.Wait()
	err := errors.Join(s.looks.Close(), s.db.Close())
	if s.file != nil {
		err = errors.Join(err, s.file.setAside())
	}
	return err
}

// Get implements registry.Store. It takes no lock, unless the process was stopped.
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

// Reload implements registry.Store. It also seals credentials again for which the
// key file names another key now.
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

// unavailable is what callers get of a database's error.
func unavailable(err error) error { return fmt.Errorf("%w: %w", registry.ErrUnavailable, err) }
