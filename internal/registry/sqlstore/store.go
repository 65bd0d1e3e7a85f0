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
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/registry/seal"
)

// Config is what both databases need. Its zero value is useful but for
// credentials, which are refused without a Sealer.
type Config struct {
	// Sealer seals credentials; nil refuses them.
	Sealer seal.Sealer
	// Files are the files and directories that documents may name files of, see
	// registry.DocumentConfig.
	Files []string
	// MaxIntegrations is how many there may be; 0 means DefaultMaxIntegrations.
	MaxIntegrations int
	// MaxOutage is how long what was last seen is served while the database cannot
	// be reached; 0 means DefaultMaxOutage.
	MaxOutage time.Duration
	// PollInterval is how often Run looks for changes that it was not notified of;
	// 0 means 500 ms.
	PollInterval time.Duration
	// UsageRetention is how long usage is kept after the last use; 0 means
	// DefaultUsageRetention.
	UsageRetention time.Duration
	// Logger is told of every change and fault; nil discards.
	Logger *slog.Logger
	// OnChange is as that of registry.FilesConfig.
	OnChange func(removed, changed []*registry.Integration)
	// Now is the clock; nil means time.Now.
	Now func() time.Time

	// program is the schema version that the Store works with, for tests of
	// releases side by side; 0 means this release's.
	program int
}

// What holds for settings that are zero.
const (
	DefaultMaxIntegrations = 100
	DefaultMaxOutage       = 15 * time.Minute
	DefaultUsageRetention  = 90 * 24 * time.Hour
)

const (
	// lookTime bounds a look whether something has changed: one row by its key.
	lookTime = time.Second
	// loadTime bounds reading what has changed.
	loadTime = 10 * time.Second
	// filesInterval is how often files that documents name are looked at.
	filesInterval = 5 * time.Second
)

// Store is a registry.Store and a registry.UsageStore. It is safe for concurrent
// use.
type Store struct {
	cfg Config
	db  *sql.DB
	d   *dialect
	// listen, if not nil, calls wake whenever the database notifies of a change,
	// until ctx ends or the connection breaks.
	listen func(ctx context.Context, wake func()) error

	current atomic.Pointer[snapshot]
	seen    atomic.Pointer[time.Time]
	outage  atomic.Pointer[outage] // nil while the database answers

	refreshing sync.Mutex // serialises what replaces current
}

var (
	_ registry.Store      = (*Store)(nil)
	_ registry.UsageStore = (*Store)(nil)
)

// outage is a time in which the database cannot be reached.
type outage struct {
	problem   string
	refusesAt time.Time
}

// open brings the schema up to date and reads everything.
func open(ctx context.Context, c Config, db *sql.DB, d *dialect) (*Store, error) {
	c.MaxIntegrations = cmp.Or(c.MaxIntegrations, DefaultMaxIntegrations)
	c.MaxOutage = cmp.Or(c.MaxOutage, DefaultMaxOutage)
	c.PollInterval = cmp.Or(c.PollInterval, 500*time.Millisecond)
	c.UsageRetention = cmp.Or(c.UsageRetention, DefaultUsageRetention)
	c.program = cmp.Or(c.program, latest())
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if err := migrate(ctx, db, d, c.program); err != nil {
		return nil, fmt.Errorf("registry: the tables of the %s database cannot be brought up to date: %w", d.name, err)
	}
	onChange := c.OnChange
	c.OnChange = nil // what is there at first is no change
	s := &Store{cfg: c, db: db, d: d}
	s.current.Store(&snapshot{})
	if err := s.refresh(ctx); err != nil {
		return nil, fmt.Errorf("registry: the integrations cannot be read from the %s database: %w", d.name, err)
	}
	s.cfg.OnChange = onChange
	return s, nil
}

// Close closes the database. Get and List go on answering.
func (s *Store) Close() error { return s.db.Close() }

// Get implements registry.Store. It takes no lock.
func (s *Store) Get(id string) (*registry.Integration, error) {
	if o := s.outage.Load(); o != nil && s.cfg.Now().After(o.refusesAt) {
		return nil, registry.ErrUnavailable
	}
	if k, ok := s.current.Load().byID[id]; ok && k.serving != nil {
		return k.serving, nil
	}
	return nil, registry.ErrNotFound
}

// List implements registry.Store.
func (s *Store) List() []*registry.Integration { return slices.Clone(s.current.Load().sorted) }

// Faults implements registry.Store. The File of a fault is the integration's id.
func (s *Store) Faults() []registry.FileFault { return slices.Clone(s.current.Load().faults) }

// Status implements registry.Store.
func (s *Store) Status() registry.Status {
	st := registry.Status{Backend: s.d.name, Writable: true, SeenAt: *s.seen.Load()}
	if o := s.outage.Load(); o != nil {
		st.Problem, st.RefusesAt = o.problem, o.refusesAt
	}
	return st
}

// Reload implements registry.Store. It also opens anew what the key file has
// other keys for by now.
func (s *Store) Reload() {
	ctx, cancel := context.WithTimeout(context.Background(), loadTime)
	defer cancel()
	if err := s.refresh(ctx); err == nil {
		s.checkFiles()
		s.checkKeys()
		if _, err := s.Reseal(ctx); err != nil {
			s.cfg.Logger.Error("credentials are not sealed anew", "error", err)
		}
	}
}

// unavailable is what callers get of a database's error.
func unavailable(err error) error { return fmt.Errorf("%w: %w", registry.ErrUnavailable, err) }
