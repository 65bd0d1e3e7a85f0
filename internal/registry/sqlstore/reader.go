package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/secretbroker/secretbroker/internal/registry/seal"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore/pgurl"
)

// Reader reads a database of integrations for a command, whether brokers are running or
// not. It writes nothing and does not migrate the tables. It is safe for concurrent use.
type Reader struct {
	db *sql.DB
	d  *dialect
}

// ReadSQLite opens the database in a file, which must exist.
func ReadSQLite(ctx context.Context, file string) (*Reader, error) {
	file, err := filepath.Abs(file)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	if _, err := os.Stat(file); err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	if err := checkLog(file); err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	q := url.Values{"mode": {"ro"}, "_dqs": {"0"}, "_pragma": {"busy_timeout(5000)", "query_only(1)", "trusted_schema(0)"}}
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: file}).EscapedPath(), RawQuery: q.Encode()}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	return newReader(ctx, db, &sqliteDialect)
}

// ReadPostgres opens a database. It does not wait for a server that cannot be reached.
func ReadPostgres(ctx context.Context, p Postgres) (*Reader, error) {
	conf, fault := pgurl.Parse(p.URL)
	if fault != "" {
		return nil, errors.New("registry: " + fault)
	}
	conf.RuntimeParams["default_transaction_read_only"] = "on"
	conf.ValidateConnect = nil // reading from a standby is fine here
	conf.ConnectTimeout = cmp.Or(conf.ConnectTimeout, connectTime)
	db := stdlib.OpenDB(*conf, stdlib.OptionBeforeConnect(func(_ context.Context, c *pgx.ConnConfig) error {
		if p.PasswordFile == "" {
			return nil
		}
		password, err := readPassword(p.PasswordFile)
		c.Password = password
		return err
	}))
	return newReader(ctx, db, &postgresDialect)
}

func newReader(ctx context.Context, db *sql.DB, d *dialect) (*Reader, error) {
	var oldest int
	err := db.QueryRowContext(ctx, `SELECT coalesce(max(oldest), 0) FROM schema_migrations`).Scan(&oldest)
	if err == nil && oldest > latest() {
		err = errors.New("a newer release has migrated its tables; use the broker command of that release")
	}
	if err != nil {
		_ = db.Close() // nothing was written
		return nil, fmt.Errorf("registry: reading the integrations from the %s database: %w", d.name, err)
	}
	return &Reader{db, d}, nil
}

// Close closes the database.
func (r *Reader) Close() error { return r.db.Close() }

// Kept is an integration as the database stores it.
type Kept struct {
	ID       string
	Document []byte
	// UpdatedAt is when it was last written, in whole microseconds.
	UpdatedAt time.Time
}

// Integrations returns all integrations as of one point in time, sorted by id.
func (r *Reader) Integrations(ctx context.Context) ([]Kept, error) {
	all, err := readRows(ctx, r, `SELECT id, spec, updated_at FROM integrations ORDER BY id`, func(r *row) []any { return []any{&r.id, &r.spec, &r.updatedAt} })
	list := make([]Kept, len(all))
	for i, row := range all {
		list[i] = Kept{ID: row.id, Document: []byte(row.spec), UpdatedAt: instant(row.updatedAt)}
	}
	return list, err
}

// Sealed is a sealed credential, or a sealed key, as the database stores it.
type Sealed struct {
	// Integration and Name identify the credential. Integration is "" for a key.
	Integration, Name string
	// KeyID is the key that sealed the credential, 0 if it cannot be determined.
	KeyID uint32
}

// Sealed returns all keys and credentials, sorted by Integration and Name.
func (r *Reader) Sealed(ctx context.Context) ([]Sealed, error) {
	all, err := readRows(ctx, r, `SELECT integration_id, name, sealed FROM credentials ORDER BY integration_id, name`,
		func(c *sealedCredential) []any { return []any{&c.integration, &c.name, &c.sealed} })
	if err != nil {
		return nil, err
	}
	keys, err := r.sealedKeys(ctx)
	if err != nil {
		return nil, err
	}
	var list []Sealed
	for _, c := range append(keys, all...) {
		list = append(list, Sealed{Integration: c.integration, Name: c.name, KeyID: seal.KeyID(c.sealed)})
	}
	return list, nil
}

// sealedKeys returns the rows of sealed_keys, if the schema has the table.
func (r *Reader) sealedKeys(ctx context.Context) ([]*sealedCredential, error) {
	var version int
	if err := r.db.QueryRowContext(ctx, `SELECT max(version) FROM schema_migrations`).Scan(&version); err != nil {
		return nil, fmt.Errorf("registry: reading the %s database: %w", r.d.name, err)
	}
	if version < sightingsVersion {
		return nil, nil
	}
	return readRows(ctx, r, `SELECT name, sealed FROM sealed_keys ORDER BY name`, func(c *sealedCredential) []any { return []any{&c.name, &c.sealed} })
}

func readRows[T any](ctx context.Context, r *Reader, query string, fields func(*T) []any) ([]*T, error) {
	rows, err := r.db.QueryContext(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("registry: reading the %s database: %w", r.d.name, err)
	}
	all, err := collect(rows, fields)
	if err != nil {
		return nil, fmt.Errorf("registry: reading the %s database: %w", r.d.name, err)
	}
	return all, nil
}

// collect scans all rows and closes them.
func collect[T any](rows *sql.Rows, fields func(*T) []any) ([]*T, error) {
	defer rows.Close() // rows.Err returns its error
	var all []*T
	for rows.Next() {
		v := new(T)
		if err := rows.Scan(fields(v)...); err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, rows.Err()
}
