// Package pgurl reads the URL of the integrations' PostgreSQL database. It is apart from
// sqlstore so that the configuration file's checks do not depend on the database's code.
package pgurl

import (
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

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

// Check returns what is wrong with a connection URI, or "". The URI must not
// contain a password, and a connection to another host must be encrypted and verify the
// server. The result quotes no part of the URI.
func Check(uri string) string {
	if holdsPassword(uri) {
		return "the URL contains a password; put it into a file and set password_file to its path"
	}
	_, fault := Parse(uri)
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

// Parse returns the configuration of a connection by uri, or what is wrong with uri. It
// does not refuse a password.
func Parse(uri string) (*pgx.ConnConfig, string) {
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
