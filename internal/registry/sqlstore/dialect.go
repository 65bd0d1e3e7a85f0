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

// dialect describes the differences between the two databases.
type dialect struct {
	name string
	// numbered is whether placeholders are written $1, $2 instead of ?.
	numbered bool
	// lockSchema, if not "", is the first statement of a transaction that changes tables.
	lockSchema string
	// hasMigrations counts the tables schema_migrations.
	hasMigrations string
	// state reads the row of registry_state and whether the server is a standby or
	// read-only.
	state string
	// now is the server's clock, in microseconds since the Unix epoch.
	now string
	// bytes is a placeholder for bytes where the database cannot infer the type.
	bytes string
	// forUpdate, if not "", makes a SELECT lock its rows until the end of the transaction.
	forUpdate string
	// notify, if not "", notifies the other replicas. It is run in every transaction that
	// changes integrations.
	notify string
	// write are the options of transactions that write. beginWrite begins one where
	// statements are pipelined.
	write      *sql.TxOptions
	beginWrite string
	// read are the options of transactions whose statements must see the same point in
	// time.
	read      *sql.TxOptions
	beginRead string
	// unmoved, if not nil, returns an error if connections no longer lead to the database
	// that was opened. It is called before every use and after every write.
	unmoved func() error
	// again reports whether a transaction that failed with this error can be retried
	// unchanged.
	again func(error) bool
}

// channel is the NOTIFY channel on which replicas announce changes of integrations.
const channel = "secretbroker_registry"

var sqliteDialect = dialect{
	name:          "sqlite",
	hasMigrations: `SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'schema_migrations'`,
	state:         `SELECT revision, stamp, 0, 0 FROM registry_state WHERE id = 1`,
	now:           `CAST(1000000 * unixepoch('subsec') AS INTEGER)`,
	bytes:         `?`,
	// Transactions begin with BEGIN IMMEDIATE, see sqliteDSN: one writer at a time.
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
	forUpdate:     " FOR UPDATE",
	notify:        "SELECT pg_notify('" + channel + "', '')",
	// Writers wait for each other's lock on the row of registry_state. READ COMMITTED lets
	// a writer that gets the lock see what the others have committed.
	write:      &sql.TxOptions{Isolation: sql.LevelReadCommitted},
	beginWrite: "BEGIN ISOLATION LEVEL READ COMMITTED",
	// READ ONLY is not requested here: it would hide whether the server is read-only.
	beginRead: "BEGIN ISOLATION LEVEL REPEATABLE READ",
	again: func(err error) bool {
		var e *pgconn.PgError
		if !errors.As(err, &e) {
			return false
		}
		switch e.Code {
		case "40001", "40P01", // serialization failure, deadlock
			"23503", // usage of an integration that another transaction deletes
			"23505": // usage that another replica inserts at the same time
			return true
		}
		return false
	},
}

// sql rewrites the placeholders of a statement, which must not contain any other "?".
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

// check returns an error if the database is no longer the one that was opened.
func (d *dialect) check() error {
	if d.unmoved == nil {
		return nil
	}
	return d.unmoved()
}

// tries is the maximum number of attempts for a transaction that conflicts with others.
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

// alone runs one statement outside of a batch.
func (d *dialect) alone(ctx context.Context, db *sql.DB, st stmt) error {
	if err := d.check(); err != nil {
		return err
	}
	rows, err := db.QueryContext(ctx, d.sql(st.query), st.args...)
	if err != nil {
		return err
	}
	defer rows.Close() // rows.Err returns its error
	for rows.Next() {
		if err := st.row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// inTx runs do in a transaction, which commits if do returns nil. On a conflict with
// another transaction it calls do again, so do must not depend on state from an earlier
// call.
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
	defer func() { _ = t.Rollback() }() // no effect after a commit
	if err := do(tx{t, d}); err != nil {
		return err
	}
	return t.Commit()
}
