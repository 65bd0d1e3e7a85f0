package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"modernc.org/sqlite"
)

// Connection limits. They are low because a broker rarely reads and writes integrations.
const (
	maxOpen = 8
	maxIdle = 2
)

// OpenSQLite opens the database in a file on a local disk, and creates it if it does not
// exist. It is meant for one broker: changes by other processes are found only by polling.
func OpenSQLite(ctx context.Context, file string, c Config) (*Store, error) {
	file, err := filepath.Abs(file)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	if err := makeFile(file); err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	if err := checkLog(file); err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	opened := &dbFile{path: file, info: info}
	connector, err := sqlite.NewConnector(sqliteDSN(file))
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	db, looks := sql.OpenDB(connector), sql.OpenDB(connector)
	db.SetMaxOpenConns(maxOpen)
	db.SetMaxIdleConns(maxIdle)
	looks.SetMaxOpenConns(1)
	d := sqliteDialect
	d.unmoved = opened.unmoved
	s := newStore(c, db, looks, &d)
	s.file = opened
	err = checkTables(ctx, db, file)
	if err == nil {
		err = s.start(ctx)
	}
	if err != nil {
		_ = s.Close() // nothing has been written
		return nil, err
	}
	return s, nil
}

// sqliteDSN returns the settings of every connection: a write-ahead log, so that reads and
// writes do not block each other; fsync on commit; and a wait for the lock of another
// writer.
func sqliteDSN(file string) string {
	q := url.Values{
		"_txlock":    {"immediate"},
		"_defensive": {"1"},
		"_dqs":       {"0"},
		"_pragma":    {"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)", "trusted_schema(0)", "secure_delete(1)"},
	}
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: file}).EscapedPath(), RawQuery: q.Encode()}
	return u.String()
}

// makeFile makes sure that only the owner can read and write the file. SQLite gives its
// log files the same mode.
func makeFile(file string) error {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		return f.Close()
	}
	if !errors.Is(err, os.ErrExist) {
		return err
	}
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", file)
	}
	if info.Mode().Perm()&0o007 != 0 {
		return fmt.Errorf("%s can be read or written by other users; run chmod 600 on it", file)
	}
	return nil
}
