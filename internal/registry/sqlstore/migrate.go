package sqlstore

import (
	"context"
	"database/sql"
	"embed"
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
}

// latest is the schema version of this program.
func latest() int { return migrations[len(migrations)-1].version }

// migrate brings the schema to the version that program has, and leaves a newer
// one alone. Several may do so at the same time.
func migrate(ctx context.Context, db *sql.DB, d *dialect, program int) error {
	return inTx(ctx, db, d, d.write, func(t tx) error {
		if d.lockSchema != "" {
			if err := t.exec(ctx, d.lockSchema); err != nil {
				return err
			}
		}
		if err := t.exec(ctx, `CREATE TABLE IF NOT EXISTS schema_migrations (version INTEGER PRIMARY KEY, oldest INTEGER NOT NULL)`); err != nil {
			return err
		}
		var version, oldest int
		err := t.row(ctx, `SELECT coalesce(max(version), 0), coalesce(max(oldest), 0) FROM schema_migrations`).Scan(&version, &oldest)
		if err != nil {
			return err
		}
		if program < oldest {
			return fmt.Errorf("the database has schema version %d, which this release (%d) is too old for; use a newer release of the broker", version, program)
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
