package sqlstore

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

// Postgres is the location of a PostgreSQL database.
type Postgres struct {
	// URL is a libpq connection URI that CheckPostgresURL accepts.
	URL string
	// PasswordFile is the file with the password, or "". It is read for every new
	// connection.
	PasswordFile string
}

// minLifetime is the minimum time that a connection is used. After at most twice that
// time, it is replaced by a connection to the address that the host name has then, so that
// replicas follow a change of DNS.
const minLifetime = 30 * time.Second

// sessionDefaults are parameters of every connection unless the URL sets them. They make
// the server end the sessions of a broker that was cut off, which might hold locks. The
// values are in milliseconds, those of tcp_keepalives in seconds.
var sessionDefaults = map[string]string{
	"application_name":                    "secretbroker",
	"statement_timeout":                   "30000",
	"lock_timeout":                        "3000",
	"idle_in_transaction_session_timeout": "5000",
	"tcp_user_timeout":                    "15000",
	"tcp_keepalives_idle":                 "10",
	"tcp_keepalives_interval":             "5",
	"tcp_keepalives_count":                "3",
}

// CheckPostgresURL returns what is wrong with a connection URI, or "". The URI must not
// contain a password, and a connection to another host must be encrypted and verify the
// server. The result quotes no part of the URI.
func CheckPostgresURL(uri string) string {
	if holdsPassword(uri) {
		return "the URL contains a password; put it into a file and set password_file to its path"
	}
	_, fault := parsePostgres(uri)
	return fault
}

// holdsPassword examines the URL itself, because the parsed configuration also contains
// the password from the process's environment.
func holdsPassword(uri string) bool {
	_, rest, _ := strings.Cut(uri, "://")
	rest, query, _ := strings.Cut(rest, "?")
	authority, _, _ := strings.Cut(rest, "/")
	if at := strings.LastIndex(authority, "@"); at >= 0 && strings.Contains(authority[:at], ":") {
		return true
	}
	values, err := url.ParseQuery(query)
	return err == nil && values.Has("password")
}

func parsePostgres(uri string) (*pgx.ConnConfig, string) {
	const expected = "expected the URL of a PostgreSQL database, such as postgres://broker@db.example.org/secretbroker?sslrootcert=/etc/secretbroker/db-ca.pem; the files that it names must exist"
	if !strings.HasPrefix(uri, "postgres://") && !strings.HasPrefix(uri, "postgresql://") {
		return nil, expected
	}
	c, err := pgx.ParseConfig(withVerification(uri))
	if err != nil { // not wrapped: it may quote the URL
		return nil, expected
	}
	switch attrs := parameter(uri, "target_session_attrs"); attrs {
	case "":
		c.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	case "read-only", "standby", "prefer-standby":
		return nil, "target_session_attrs=" + attrs + " may lead to a standby, which may not know of a revoked grant; remove it: the default is read-write"
	}
	for name, value := range sessionDefaults {
		if c.RuntimeParams[name] == "" {
			c.RuntimeParams[name] = value
		}
	}
	// This mode does not spend a round trip on preparing each statement.
	c.DefaultQueryExecMode = pgx.QueryExecModeExec
	dialer := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}}
	c.DialFunc = dialer.DialContext
	type target struct {
		host     string
		verified bool
	}
	targets := []target{{c.Host, c.TLSConfig != nil && !c.TLSConfig.InsecureSkipVerify}}
	for _, f := range c.Fallbacks {
		targets = append(targets, target{f.Host, f.TLSConfig != nil && !f.TLSConfig.InsecureSkipVerify})
	}
	for _, t := range targets {
		ip := net.ParseIP(t.host)
		local := strings.HasPrefix(t.host, "/") || t.host == "localhost" || ip != nil && ip.IsLoopback()
		if !t.verified && !local {
			return nil, "a connection to a database on another host requires sslmode=verify-full, which is the default if sslmode is not set"
		}
	}
	return c, ""
}

// parameter returns a parameter of a connection URI, or "".
func parameter(uri, name string) string {
	_, query, _ := strings.Cut(uri, "?")
	values, _ := url.ParseQuery(query) // pgx has parsed it before
	return values.Get(name)
}

// withVerification makes sslmode=verify-full the default.
func withVerification(uri string) string {
	if strings.Contains(uri, "sslmode=") {
		return uri
	}
	sep := "?"
	if strings.Contains(uri, "?") {
		sep = "&"
	}
	return uri + sep + "sslmode=verify-full"
}

// OpenPostgres opens a database that many brokers may share. It waits until the database
// can be reached or ctx ends.
func OpenPostgres(ctx context.Context, p Postgres, c Config) (*Store, error) {
	conf, fault := parsePostgres(p.URL)
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
	s.hosts += len(conf.Fallbacks)
	if err := s.startWhenReady(ctx); err != nil {
		_ = s.Close() // nothing was written
		return nil, err
	}
	s.listen = func(ctx context.Context, wake func()) error {
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

// listen calls wake for every notification, until ctx ends or the connection breaks. It
// returns nil after the connection's lifetime.
func listen(ctx context.Context, conf *pgx.ConnConfig, lifetime time.Duration, wake func()) error {
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
	_, err = conn.Exec(begin, "LISTEN "+channel)
	cancel()
	if err != nil {
		return err
	}
	wake() // for changes before LISTEN took effect
	for time.Now().Before(old) {
		quiet, cancel := context.WithTimeout(ctx, min(idleNotices, time.Until(old)))
		_, err := conn.WaitForNotification(quiet)
		cancel()
		switch {
		case err == nil:
			wake()
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
