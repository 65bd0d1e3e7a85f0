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

// migration is one step of the schema. A step is never changed once it has been
// released.
//
// A program works with the schema of its own version and with that of the next:
// during a rolling upgrade the first new replica brings the schema forward while
// the old ones still run, and a rollback leaves it there. So a step adds, and
// what becomes useless is taken out one version later at the earliest; programs
// name the columns that they read and write, and new columns have defaults.
type migration struct {
	version int
	name    string
	// oldest is the schema version of the oldest program that works with this one.
	// Programs that are older refuse to start.
	oldest int
}

var migrations = []migration{
	{version: 1, name: "integrations", oldest: 1},
	{version: 2, name: "usage", oldest: 1},
	{version: changesVersion, name: "changes", oldest: 2},
}

// changesVersion is the schema version that has the log of changes. Writers of older
// programs leave gaps in it, which readers notice.
const changesVersion = 3

// latest is the schema version of this program.
func latest() int { return migrations[len(migrations)-1].version }

// errTooOld: a newer release has changed the tables.
var errTooOld = errors.New("use a newer release of the broker")

// migrate brings the schema to the version that program has, and leaves a newer
// one alone. Several may do so at the same time. It writes only if there is
// something to change, so that replicas start on a database that takes no writes.
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

// schemaVersion returns the version that the tables have, 0 for none, or an error
// if program is too old for it.
func schemaVersion(program int, query func(string) *sql.Row) (version int, err error) {
	var oldest int
	err = query(`SELECT coalesce(max(version), 0), coalesce(max(oldest), 0) FROM schema_migrations`).Scan(&version, &oldest)
	if err == nil && program < oldest {
		err = fmt.Errorf("the database has schema version %d, which this release (%d) is too old for; %w", version, program, errTooOld)
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
