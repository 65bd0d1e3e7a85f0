package sqlstore

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/secretbroker/secretbroker/internal/registry/sqlstore/pgurl"
)

// Postgres is the location of a PostgreSQL database.
type Postgres struct {
	// URL is a libpq connection URI that pgurl.Check accepts.
	URL string
	// PasswordFile is the file with the password, or "". It is read for every new
	// connection.
	PasswordFile string
}

// minLifetime is the minimum time that a connection is used. After at most twice that
// time, it is replaced by a connection to the address that the host name has then, so that
// replicas follow a change of DNS.
const minLifetime = 30 * time.Second

// OpenPostgres opens a database that many brokers may share. It waits until the database
// can be reached or ctx ends.
func OpenPostgres(ctx context.Context, p Postgres, c Config) (*Store, error) {
	conf, fault := pgurl.Parse(p.URL)
	if fault != "" {
		return nil, errors.New("registry: " + fault)
	}
	if p.PasswordFile != "" { // now, to report a mistake at once
		if _, err := readPassword(p.PasswordFile); err != nil {
			return nil, err
		}
	}
	var s *Store
	prepare := func(_ context.Context, c *pgx.ConnConfig) (err error) {
		if c.ConnectTimeout == 0 {
			c.ConnectTimeout = s.link.connect()
		}
		if p.PasswordFile != "" {
			c.Password, err = readPassword(p.PasswordFile)
		}
		return err
	}
	lifetime := cmp.Or(c.lifetime, minLifetime+rand.N(minLifetime)) //nolint:gosec // only spreads the load of replicas
	pool := func(open, idle int) *sql.DB {
		db := stdlib.OpenDB(*conf, stdlib.OptionBeforeConnect(prepare))
		db.SetMaxOpenConns(open)
		db.SetMaxIdleConns(idle)
		db.SetConnMaxLifetime(lifetime)
		return db
	}
	s = newStore(c, pool(maxOpen, maxIdle), pool(1, 1), &postgresDialect)
	s.polls = pool(1, 1)
	s.hosts += len(conf.Fallbacks)
	if err := s.startWhenReady(ctx); err != nil {
		_ = s.Close() // nothing was written
		return nil, err
	}
	s.listen = func(ctx context.Context, wake func(string)) error {
		conf := conf.Copy()
		if err := prepare(ctx, conf); err != nil {
			return err
		}
		return listen(ctx, conf, lifetime, wake)
	}
	return s, nil
}

// startPause is the pause between two attempts to start.
const startPause = 500 * time.Millisecond

// startWhenReady calls start until it succeeds or ctx ends, while the database cannot be
// reached, is starting, is failing over or has no free connection. It returns other
// errors, which need a person's action, at once.
func (s *Store) startWhenReady(ctx context.Context) error {
	var before error
	for {
		err := s.start(ctx)
		if err == nil || !mayPass(err) {
			return err
		}
		if errors.Is(err, context.DeadlineExceeded) {
			s.link.timedOut()
		}
		if before == nil {
			s.cfg.Logger.Warn("waiting for the integrations' database", "backend", s.d.name, "error", err)
		} else if ctx.Err() != nil {
			err = before // more helpful than "deadline exceeded"
		}
		before = err
		if !sleep(ctx, startPause) {
			return fmt.Errorf("registry: the postgres database cannot be reached: %w", err)
		}
	}
}

// mayPass reports whether the cause of a failed start may pass without a person's action.
func mayPass(err error) bool {
	var refused *pgconn.PgError
	if !errors.As(err, &refused) {
		var path *os.PathError
		return !errors.Is(err, errTooOld) && !errors.As(err, &path)
	}
	switch refused.Code[:2] {
	case "08", // connection exception
		"40", // transaction rollback
		"53", // insufficient resources, such as too many connections
		"55", // a lock is not available
		"57", // the server is shutting down or starting
		"58": // system error
		return true
	}
	return refused.Code == "25006" // read-only
}

func readPassword(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("registry: reading the database's password: %w", err)
	}
	defer clear(b)
	return string(bytes.TrimRight(b, "\r\n")), nil
}

// idleNotices is how long the connection for notifications may be silent before its peer
// is checked.
const idleNotices = 10 * time.Second

// listen is Store.listen.
func listen(ctx context.Context, conf *pgx.ConnConfig, lifetime time.Duration, wake func(channel string)) error {
	conn, err := pgx.ConnectConfig(ctx, conf)
	if err != nil {
		return err
	}
	old := time.Now().Add(lifetime)
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(end) // it has no open transaction
	}()
	begin, cancel := context.WithTimeout(ctx, conf.ConnectTimeout)
	_, err = conn.Exec(begin, "LISTEN "+channel+"; LISTEN "+sightingsChannel)
	cancel()
	if err != nil {
		return err
	}
	wake("") // for changes before LISTEN took effect
	for time.Now().Before(old) {
		quiet, cancel := context.WithTimeout(ctx, min(idleNotices, time.Until(old)))
		notified, err := conn.WaitForNotification(quiet)
		cancel()
		switch {
		case err == nil:
			wake(notified.Channel)
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, context.DeadlineExceeded):
			ping, cancel := context.WithTimeout(ctx, conf.ConnectTimeout)
			err := conn.Ping(ping)
			cancel()
			if err != nil {
				return err
			}
		default:
			return err
		}
	}
	return nil
}
