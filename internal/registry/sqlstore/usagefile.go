package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/secretbroker/secretbroker/internal/registry"
)

// usageVersion is the version of a UsageFile's tables, in PRAGMA user_version. Tables and columns
// with defaults are added without another version, so that older releases can still use them.
const usageVersion = 1

// usageTables are the tables of a UsageFile: those of a database of integrations, as far as
// usage needs them. The table integrations has the ids of integrations in files.
const usageTables = `
CREATE TABLE integrations (id TEXT PRIMARY KEY NOT NULL);
CREATE TABLE integration_usage (
  id             TEXT PRIMARY KEY NOT NULL,
  integration_id TEXT NOT NULL REFERENCES integrations (id) ON DELETE CASCADE,
  principal      TEXT NOT NULL,
  connector      TEXT NOT NULL,
  store          TEXT NOT NULL,
  secret         TEXT NOT NULL,
  json_key       TEXT NOT NULL,
  grant_id       TEXT NOT NULL,
  version        TEXT NOT NULL,
  first_at       INTEGER NOT NULL,
  last_at        INTEGER NOT NULL
);
CREATE INDEX integration_usage_last ON integration_usage (integration_id, last_at);
CREATE TABLE usage_state (id INTEGER PRIMARY KEY CHECK (id = 1), since INTEGER NOT NULL);
PRAGMA user_version = 1;`

// UsageFileConfig is the configuration of a UsageFile. Keeps is required.
type UsageFileConfig struct {
	// Keeps reports whether an integration still exists.
	Keeps func(id string) bool
	// Retention is how long usage is kept after the last use; 0 means
	// registry.DefaultUsageRetention.
	Retention time.Duration
	Logger    *slog.Logger     // nil discards the messages
	Now       func() time.Time // nil means time.Now
}

// UsageFile is a registry.UsageStore for integrations in files: a SQLite database with the
// usage of one broker. It is safe for concurrent use, also by several processes.
//
// A database that is damaged, or whose file is removed, must not stop the broker: the UsageFile
// renames it, logs this and begins a new one.
type UsageFile struct {
	cfg      UsageFileConfig
	path     string
	replaced atomic.Uint64

	mu    sync.RWMutex // held to replace the fields below
	store *Store
	since time.Time
	known map[string]bool // ids of integrations that this process has seen; guarded by pruning
	prune sync.Mutex
}

var _ registry.UsageStore = (*UsageFile)(nil)

// OpenUsageFile opens the database in a file, and creates it if it does not exist.
func OpenUsageFile(ctx context.Context, path string, c UsageFileConfig) (*UsageFile, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("usage: %w", err)
	}
	f := &UsageFile{cfg: c, path: path, known: make(map[string]bool)}
	err = f.open(ctx)
	if err != nil && isDamaged(err) {
		err = f.replace(ctx, err)
	}
	if err != nil {
		return nil, fmt.Errorf("usage: opening %s: %w", path, err)
	}
	return f, nil
}

// errDamaged is the error of a database that no error of SQLite describes.
var errDamaged = errors.New("the database is damaged")

// isDamaged reports whether an error means that the database can never be used again.
func isDamaged(err error) bool {
	var e *sqlite.Error
	if errors.As(err, &e) {
		code := e.Code() & 0xff
		return code == sqlite3.SQLITE_CORRUPT || code == sqlite3.SQLITE_NOTADB
	}
	return errors.Is(err, errDamaged)
}

// open opens the database. The caller holds f.mu, or is the only user of f.
func (f *UsageFile) open(ctx context.Context) error {
	if err := makeFile(f.path); err != nil {
		return err
	}
	if err := checkLog(f.path); err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	info, err := os.Stat(f.path)
	if err != nil {
		return err
	}
	connector, err := sqlite.NewConnector(sqliteDSN(f.path))
	if err != nil {
		return err
	}
	opened := &dbFile{path: f.path, info: info}
	db, looks := sql.OpenDB(connector), sql.OpenDB(connector)
	db.SetMaxOpenConns(maxIdle)
	d := sqliteDialect
	d.unmoved = opened.unmoved
	s := newStore(Config{Logger: f.cfg.Logger, Now: f.cfg.Now, UsageRetention: f.cfg.Retention}, db, looks, &d)
	s.file, s.uid, s.usageOnly = opened, "''", true
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	since, err := f.prepare(ctx, db)
	if err != nil {
		_ = s.Close() // nothing of value was written
		return err
	}
	f.store, f.since = s, since
	return nil
}

// prepare checks the tables or creates them, and returns since when usage is recorded.
func (f *UsageFile) prepare(ctx context.Context, db *sql.DB) (since time.Time, err error) {
	var result string
	if err := db.QueryRowContext(ctx, `PRAGMA quick_check(1)`).Scan(&result); err != nil {
		return since, err
	}
	if result != "ok" {
		return since, fmt.Errorf("%w: %s", errDamaged, result)
	}
	var micro int64
	err = inTx(ctx, db, &sqliteDialect, sqliteDialect.write, func(t tx) error {
		var version int
		if err := t.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&version); err != nil {
			return err
		}
		switch version {
		case usageVersion:
		case 0:
			if err := t.exec(ctx, usageTables); err != nil {
				return err
			}
			if err := t.exec(ctx, `INSERT INTO usage_state (id, since) VALUES (1, ?)`, f.cfg.Now().UnixMicro()); err != nil {
				return err
			}
		default:
			return fmt.Errorf("it has the tables of another release (version %d); move it away, or use that release", version)
		}
		if err := addVersions(ctx, t); err != nil {
			return err
		}
		return t.QueryRowContext(ctx, `SELECT since FROM usage_state WHERE id = 1`).Scan(&micro)
	})
	return instant(micro), err
}

// addVersions adds the versions of uses to tables that lack them.
func addVersions(ctx context.Context, t tx) error {
	var columns int
	err := t.QueryRowContext(ctx, `SELECT count(*) FROM pragma_table_info('integration_usage') WHERE name = 'versions'`).Scan(&columns)
	if err != nil || columns > 0 {
		return err
	}
	text, err := migrationFiles.ReadFile(fmt.Sprintf("migrations/sqlite/%d_usage_versions.sql", usageVersionsVersion))
	if err != nil {
		return err
	}
	return t.exec(ctx, string(text))
}

// replace renames a damaged database and begins a new one. The caller holds f.mu, or is the
// only user of f.
func (f *UsageFile) replace(ctx context.Context, why error) error {
	if f.store != nil {
		_ = f.store.Close() // the database is lost
	}
	aside := f.path + ".damaged-" + f.cfg.Now().UTC().Format("20060102T150405Z")
	for _, suffix := range []string{"", walSuffix, shmSuffix} {
		if err := os.Rename(f.path+suffix, aside+suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	f.replaced.Add(1)
	f.cfg.Logger.Error("the database of usage is damaged or was removed; recording begins again in a new one", "file", f.path, "moved_to", aside, "error", why)
	return f.open(ctx)
}

// Replaced returns how many databases were damaged or removed, since the start.
func (f *UsageFile) Replaced() uint64 { return f.replaced.Load() }

// Close closes the database.
func (f *UsageFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.store.Close()
}

// do calls a function with the database. If that is damaged or no longer the file at the path,
// do replaces it and calls the function again.
func (f *UsageFile) do(ctx context.Context, call func(*Store) error) error {
	f.mu.RLock()
	s := f.store
	err := call(s)
	f.mu.RUnlock()
	if err == nil || !isDamaged(err) && s.d.check() == nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.store == s { // no other call has replaced it
		if e := f.replace(ctx, err); e != nil {
			return fmt.Errorf("%w (%w)", err, e)
		}
	}
	return call(f.store)
}

// MergeUsage implements registry.UsageStore.
func (f *UsageFile) MergeUsage(ctx context.Context, batch []registry.Usage) error {
	return mergeKept(ctx, f, batch, func(u *registry.Usage) string { return u.Integration }, (*Store).MergeUsage)
}

// MergeSeen implements registry.UsageStore.
func (f *UsageFile) MergeSeen(ctx context.Context, batch []registry.Seen) error {
	return mergeKept(ctx, f, batch, func(v *registry.Seen) string { return v.Integration }, (*Store).MergeSeen)
}

// mergeKept calls merge with the elements of a batch whose integrations still exist.
func mergeKept[T any](ctx context.Context, f *UsageFile, batch []T, integrationOf func(*T) string, merge func(*Store, context.Context, []T) error) error {
	ids := make(map[string]bool)
	kept := make([]T, 0, len(batch))
	for i := range batch {
		id := integrationOf(&batch[i])
		keep, seen := ids[id]
		if !seen {
			keep = f.cfg.Keeps(id)
			ids[id] = keep
		}
		if keep {
			kept = append(kept, batch[i])
		}
	}
	var added []stmt
	f.prune.Lock()
	for id, keep := range ids {
		if keep {
			f.known[id] = true
			added = append(added, stmt{query: `INSERT INTO integrations (id) VALUES (?) ON CONFLICT (id) DO NOTHING`, args: []any{id}})
		}
	}
	f.prune.Unlock()
	return f.do(ctx, func(s *Store) error {
		if len(added) > 0 {
			if err := s.writeUsage(ctx, added...); err != nil {
				return err
			}
		}
		return merge(s, ctx, kept)
	})
}

// Run deletes expired usage and that of deleted integrations, until ctx ends.
func (f *UsageFile) Run(ctx context.Context) error {
	every(ctx, time.Minute, func() { f.deleteUnkept(ctx) })
	return nil
}

// deleteUnkept deletes the usage of integrations that have been deleted since the start, and
// expired usage. It leaves that of integrations that were missing at the start until it
// expires: their directory may not have been mounted.
func (f *UsageFile) deleteUnkept(ctx context.Context) {
	f.prune.Lock()
	defer f.prune.Unlock()
	for id := range f.known {
		if f.cfg.Keeps(id) {
			continue
		}
		err := f.do(ctx, func(s *Store) error {
			return s.writeUsage(ctx, stmt{query: `DELETE FROM integrations WHERE id = ?`, args: []any{id}})
		})
		if err != nil {
			f.cfg.Logger.Warn("deleting the usage of a deleted integration failed; retrying", "integration_id", id, "error", err)
			return
		}
		delete(f.known, id)
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	f.store.prune(ctx)
}

// Usage implements registry.UsageStore.
func (f *UsageFile) Usage(ctx context.Context, integration string, since time.Time, limit int) (all []registry.Usage, err error) {
	err = f.do(ctx, func(s *Store) error {
		all, err = s.Usage(ctx, integration, since, limit)
		return err
	})
	return all, err
}

// UsagePage implements registry.UsageStore.
func (f *UsageFile) UsagePage(ctx context.Context, q registry.UsageQuery) (all []registry.Usage, err error) {
	err = f.do(ctx, func(s *Store) error {
		all, err = s.UsagePage(ctx, q)
		return err
	})
	return all, err
}

// CountVersions implements registry.UsageStore.
func (f *UsageFile) CountVersions(ctx context.Context, limit int) (all []registry.VersionCount, err error) {
	err = f.do(ctx, func(s *Store) error {
		all, err = s.CountVersions(ctx, limit)
		return err
	})
	return all, err
}

// Seen implements registry.UsageStore.
func (f *UsageFile) Seen(ctx context.Context, secrets []string) (all []registry.Seen, err error) {
	err = f.do(ctx, func(s *Store) error {
		all, err = s.Seen(ctx, secrets)
		return err
	})
	return all, err
}

// LastUsed implements registry.UsageStore.
func (f *UsageFile) LastUsed(ctx context.Context) (last map[string]time.Time, err error) {
	err = f.do(ctx, func(s *Store) error {
		last, err = s.LastUsed(ctx)
		return err
	})
	return last, err
}

// Recording implements registry.UsageStore.
func (f *UsageFile) Recording() registry.Recording {
	f.mu.RLock()
	defer f.mu.RUnlock()
	r := registry.Recording{Since: f.since, ReplicaOnly: true}
	if kept := f.store.Recording().Since; kept.After(r.Since) {
		r.Since = kept
	}
	return r
}
