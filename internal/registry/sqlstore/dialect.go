package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// dialect is where the two databases differ.
type dialect struct {
	name string
	// numbered: placeholders are $1, $2 and not ?.
	numbered bool
	// lockSchema, if not "", is run first in a transaction that changes tables.
	lockSchema string
	// hasMigrations counts the tables schema_migrations.
	hasMigrations string
	// state reads the row of registry_state, and whether the server is a standby or
	// read-only.
	state string
	// now is the server's clock, in microseconds since 1970.
	now string
	// bytes is a placeholder for bytes where the type cannot be told.
	bytes string
	// notify, if not "", is run in every transaction that changes integrations: it
	// tells the other replicas.
	notify string
	// write are the options of transactions that change something, and beginWrite
	// their beginning where statements are pipelined.
	write      *sql.TxOptions
	beginWrite string
	// read are the options of transactions that must see one point in time.
	read      *sql.TxOptions
	beginRead string
	// unmoved, if not nil, returns an error if connections no longer lead to the
	// database that was opened. It is asked before each use, and after each write.
	unmoved func() error
	// again reports whether a transaction that failed so can be tried again as it is.
	again func(error) bool
}

// channel is where replicas tell each other that integrations have changed.
const channel = "secretbroker_registry"

var sqliteDialect = dialect{
	name:          "sqlite",
	hasMigrations: `SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'schema_migrations'`,
	state:         `SELECT revision, stamp, 0, 0 FROM registry_state WHERE id = 1`,
	now:           `CAST(1000000 * unixepoch('subsec') AS INTEGER)`,
	bytes:         `?`,
	// Begun with BEGIN IMMEDIATE, see sqliteDSN: one writer at a time.
	write: &sql.TxOptions{},
	read:  &sql.TxOptions{ReadOnly: true},
	again: func(err error) bool {
		var e *sqlite.Error
		return errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_BUSY
	},
}

var postgresDialect = dialect{
	name:          "postgres",
	numbered:      true,
	lockSchema:    "SELECT pg_advisory_xact_lock(7310588243927142770)",
	hasMigrations: `SELECT count(*) FROM pg_catalog.pg_class WHERE oid = to_regclass('schema_migrations')`,
	state:         `SELECT revision, stamp, pg_is_in_recovery(), current_setting('transaction_read_only') = 'on' FROM registry_state WHERE id = 1`,
	now:           `CAST(1000000 * extract(epoch FROM clock_timestamp()) AS BIGINT)`,
	bytes:         `CAST(? AS BYTEA)`,
	notify:        "SELECT pg_notify('" + channel + "', '')",
	// Writers wait for each other at the row of registry_state, and see what the
	// others have committed once they have it.
	write:      &sql.TxOptions{Isolation: sql.LevelReadCommitted},
	beginWrite: "BEGIN ISOLATION LEVEL READ COMMITTED",
	// Not READ ONLY: a server that is read-only by itself has to show.
	beginRead: "BEGIN ISOLATION LEVEL REPEATABLE READ",
	again: func(err error) bool {
		var e *pgconn.PgError
		if !errors.As(err, &e) {
			return false
		}
		switch e.Code {
		case "40001", "40P01", // serialization failure, deadlock
			"23503", // usage of an integration that is being deleted
			"23505": // usage that another replica writes for the first time, too
			return true
		}
		return false
	},
}

// sql rewrites the placeholders of a statement, which holds no other "?".
func (d *dialect) sql(query string) string {
	if !d.numbered {
		return query
	}
	var b strings.Builder
	for n := 1; ; n++ {
		before, after, found := strings.Cut(query, "?")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		b.WriteString("$" + strconv.Itoa(n))
		query = after
	}
}

// check returns an error if the database is not the one that was opened.
func (d *dialect) check() error {
	if d.unmoved == nil {
		return nil
	}
	return d.unmoved()
}

// tries is how often a transaction is tried that others get in the way of.
const tries = 8

// tx is a transaction in a dialect.
type tx struct {
	*sql.Tx
	d *dialect
}

func (t tx) exec(ctx context.Context, query string, args ...any) error {
	_, err := t.ExecContext(ctx, t.d.sql(query), args...)
	return err
}

// alone runs one statement by itself.
func (d *dialect) alone(ctx context.Context, db *sql.DB, st stmt) error {
	if err := d.check(); err != nil {
		return err
	}
	rows, err := db.QueryContext(ctx, d.sql(st.query), st.args...)
	if err != nil {
		return err
	}
	defer rows.Close() // rows.Err tells
	for rows.Next() {
		if err := st.row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// inTx runs do in a transaction, again if others got in its way. do therefore
// begins anew each time. It commits if do returns nil.
func inTx(ctx context.Context, db *sql.DB, d *dialect, opts *sql.TxOptions, do func(tx) error) error {
	var err error
	for range tries {
		if err = once(ctx, db, d, opts, do); err == nil || !d.again(err) || ctx.Err() != nil {
			break
		}
	}
	return err
}

func once(ctx context.Context, db *sql.DB, d *dialect, opts *sql.TxOptions, do func(tx) error) error {
	t, err := db.BeginTx(ctx, opts)
	if err != nil {
		return err
	}
	defer func() { _ = t.Rollback() }() // does nothing after a commit
	if err := do(tx{t, d}); err != nil {
		return err
	}
	return t.Commit()
}
