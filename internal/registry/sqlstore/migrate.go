package sqlstore

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
)

//go:embed migrations
var migrationFiles embed.FS

// migration is one step of the schema. A step never changes once it has been released.
//
// A release works with its own version of the schema and the next one: during a rolling
// upgrade, the first new replica migrates the schema while old replicas still run, and a
// rollback does not undo the migration. So a step only adds. A column or table that is no
// longer used is removed at least one version later. Queries list their columns, and new
// columns have defaults.
type migration struct {
	version int
	name    string
	// oldest is the schema version of the oldest release that works with this step. Older
	// releases refuse to start.
	oldest int
}

var migrations = []migration{
	{version: 1, name: "integrations", oldest: 1},
	{version: 2, name: "usage", oldest: 1},
	{version: changesVersion, name: "changes", oldest: 2},
	{version: 4, name: "grant_ids", oldest: 2},
	{version: uidVersion, name: "uid", oldest: 2},
	{version: denialsVersion, name: "denials", oldest: 2},
	{version: sightingsVersion, name: "sightings", oldest: 2},
	{version: usageVersionsVersion, name: "usage_versions", oldest: 2},
}

// changesVersion is the schema version that introduced the change log. Writers of older
// releases leave gaps in the log, which readers detect.
const changesVersion = 3

// uidVersion is the schema version that introduced the column uid. The database fills it for
// integrations that older releases create.
const uidVersion = 5

// denialsVersion is the schema version that introduced the deny list. Older releases ignore
// it: they serve denied callers.
const denialsVersion = 6

// sightingsVersion is the schema version that introduced sightings, leases and sealed keys.
// Replicas of older releases have no leases: Refresh does not wait for them.
const sightingsVersion = 7

// usageVersionsVersion is the schema version that introduced the versions of uses and the last
// reads of secrets. Older releases write neither: of their uses only the last version is known.
const usageVersionsVersion = 8

// latest is the schema version of this release.
func latest() int { return migrations[len(migrations)-1].version }

// errTooOld means that a newer release has migrated the tables.
var errTooOld = errors.New("use a newer release of the broker")

// migrate brings the schema to the version of this release. It does not change a newer
// schema. Replicas may run it concurrently. It writes only if there is something to
// migrate, so a replica can start while the database is read-only.
func migrate(ctx context.Context, db *sql.DB, d *dialect, program int) error {
	var tables int
	if err := d.alone(ctx, db, stmt{query: d.hasMigrations, row: into(&tables)}); err != nil {
		return err
	}
	if tables > 0 {
		version, err := schemaVersion(program, func(query string) *sql.Row { return db.QueryRowContext(ctx, query) })
		if err != nil || version >= program {
			return err
		}
	}
	return inTx(ctx, db, d, d.write, func(t tx) error {
		if d.lockSchema != "" {
			if err := t.exec(ctx, d.lockSchema); err != nil {
				return err
			}
		}
		if err := t.exec(ctx, `CREATE TABLE IF NOT EXISTS schema_migrations (version INTEGER PRIMARY KEY, oldest INTEGER NOT NULL)`); err != nil {
			return err
		}
		version, err := schemaVersion(program, func(query string) *sql.Row { return t.QueryRowContext(ctx, query) })
		if err != nil {
			return err
		}
		for _, m := range migrations {
			if m.version <= version || m.version > program {
				continue
			}
			if err := apply(ctx, t, m); err != nil {
				return fmt.Errorf("schema version %d (%s): %w", m.version, m.name, err)
			}
		}
		return nil
	})
}

// schemaVersion returns the version of the tables, 0 if there are none, or an error if
// program is too old for it.
func schemaVersion(program int, query func(string) *sql.Row) (version int, err error) {
	var oldest int
	err = query(`SELECT coalesce(max(version), 0), coalesce(max(oldest), 0) FROM schema_migrations`).Scan(&version, &oldest)
	if err == nil && program < oldest {
		err = fmt.Errorf("the database has schema version %d, which is too new for this release (%d); %w", version, program, errTooOld)
	}
	return version, err
}

func apply(ctx context.Context, t tx, m migration) error {
	text, err := migrationFiles.ReadFile(fmt.Sprintf("migrations/%s/%d_%s.sql", t.d.name, m.version, m.name))
	if err != nil {
		return err
	}
	if err := t.exec(ctx, string(text)); err != nil {
		return err
	}
	return t.exec(ctx, `INSERT INTO schema_migrations (version, oldest) VALUES (?, ?)`, m.version, m.oldest)
}
