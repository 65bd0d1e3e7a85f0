package sqlstore

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

// Postgres says where a database is.
type Postgres struct {
	// URL is a libpq connection URI, as CheckPostgresURL accepts it.
	URL string
	// PasswordFile holds the password; "" for none. It is read again for every
	// connection.
	PasswordFile string
}

// connectTime bounds making a connection unless the URL has connect_timeout.
const connectTime = 5 * time.Second

// CheckPostgresURL says what is wrong with a connection URI, "" if nothing is. A
// password does not belong in it, and what leaves the host has to be encrypted
// and for the right server. It quotes nothing.
func CheckPostgresURL(uri string) string {
	if holdsPassword(uri) {
		return "the URL holds a password; put that in a file and name it in password_file"
	}
	_, fault := parsePostgres(uri)
	return fault
}

// holdsPassword looks at the URL itself: what it is parsed to has the password of
// the process's environment as well.
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
	const expected = "expected the URL of a PostgreSQL database, such as postgres://broker@db.example.org/secretbroker?sslrootcert=/etc/secretbroker/db-ca.pem; the files that it names have to be there"
	if !strings.HasPrefix(uri, "postgres://") && !strings.HasPrefix(uri, "postgresql://") {
		return nil, expected
	}
	c, err := pgx.ParseConfig(withVerification(uri))
	if err != nil { // which may quote the URL
		return nil, expected
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = connectTime
	}
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
			return nil, "the connection to a database on another host has to be sslmode=verify-full, which holds where sslmode is left out"
		}
	}
	return c, ""
}

// withVerification makes sslmode what it should have been from the beginning.
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

// OpenPostgres opens a database that many brokers may share.
func OpenPostgres(ctx context.Context, p Postgres, c Config) (*Store, error) {
	conf, fault := parsePostgres(p.URL)
	if fault != "" {
		return nil, errors.New("registry: " + fault)
	}
	if conf.RuntimeParams["application_name"] == "" {
		conf.RuntimeParams["application_name"] = "secretbroker"
	}
	if p.PasswordFile != "" { // now, so that a mistake shows at once
		if _, err := readPassword(p.PasswordFile); err != nil {
			return nil, err
		}
	}
	withPassword := func(_ context.Context, c *pgx.ConnConfig) error {
		if p.PasswordFile == "" {
			return nil
		}
		password, err := readPassword(p.PasswordFile)
		c.Password = password
		return err
	}
	db := stdlib.OpenDB(*conf, stdlib.OptionBeforeConnect(withPassword))
	db.SetMaxOpenConns(maxOpen)
	db.SetMaxIdleConns(maxIdle)
	if err := awaitServer(ctx, db); err != nil {
		_ = db.Close() // nothing was written
		return nil, fmt.Errorf("registry: the postgres database cannot be reached: %w", err)
	}
	s, err := open(ctx, c, db, &postgresDialect)
	if err != nil {
		_ = db.Close() // nothing was written
		return nil, err
	}
	s.listen = func(ctx context.Context, wake func()) error {
		conf := conf.Copy()
		if err := withPassword(ctx, conf); err != nil {
			return err
		}
		return listen(ctx, conf, wake)
	}
	return s, nil
}

// awaitServer waits for a server that cannot be reached, or is just starting,
// until ctx ends. What only a person can mend it returns at once.
func awaitServer(ctx context.Context, db *sql.DB) error {
	for {
		err := db.PingContext(ctx)
		var unreachable *pgconn.ConnectError
		var refused *pgconn.PgError
		if err == nil || !errors.As(err, &unreachable) || errors.As(err, &refused) && refused.Code != "57P03" {
			return err
		}
		wait := time.NewTimer(500 * time.Millisecond)
		select {
		case <-ctx.Done():
			wait.Stop()
			return err
		case <-wait.C:
		}
	}
}

func readPassword(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("registry: the database's password cannot be read: %w", err)
	}
	defer clear(b)
	return string(bytes.TrimRight(b, "\r\n")), nil
}

// idleNotices is how long the connection for notices may be silent before it is
// asked whether it is still there.
const idleNotices = 10 * time.Second

// listen calls wake at every notice, until ctx ends or the connection breaks.
func listen(ctx context.Context, conf *pgx.ConnConfig, wake func()) error {
	conn, err := pgx.ConnectConfig(ctx, conf)
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(end) // it holds nothing
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return err
	}
	wake() // for what came before
	for {
		quiet, cancel := context.WithTimeout(ctx, idleNotices)
		_, err := conn.WaitForNotification(quiet)
		cancel()
		switch {
		case err == nil:
			wake()
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, context.DeadlineExceeded):
			ping, cancel := context.WithTimeout(ctx, connectTime)
			err := conn.Ping(ping)
			cancel()
			if err != nil {
				return err
			}
		default:
			return err
		}
	}
}
