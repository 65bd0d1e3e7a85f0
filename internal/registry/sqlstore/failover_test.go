//go:build unix

package sqlstore

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore/pgtest"
)

// TestFailover: if the old primary keeps running after a failover, a replica follows the
// new one: at once if the old one is read-only; if it accepts writes, which makes it look
// like a primary, when the replica's connections reach their lifetime.
func TestFailover(t *testing.T) {
	t.Parallel()
	old := pgtest.New(t)
	way := newProxy(t, old)
	before := openPostgres(t, old.URL("postgres"), Config{Kinds: kinds.All()})
	grant(t, before)
	forever := running(t, openPostgres(t, through(way), Config{Kinds: kinds.All(), lifetime: time.Hour}))
	short := running(t, openPostgres(t, through(way), Config{Kinds: kinds.All(), lifetime: 2 * time.Second}))
	promoted := old.Standby()
	promoted.CatchUp(old)

	// A standby is refused, no matter what the URL says.
	for url, want := range map[string]string{
		"&target_session_attrs=any": "standby",
		"":                          "read only",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err := OpenPostgres(ctx, Postgres{URL: promoted.URL("postgres") + url}, Config{Kinds: kinds.All()})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a standby, with %q: %v", url, err)
		}
	}

	promoted.Promote()
	way.SetTarget(promoted.Addr())
	after := openPostgres(t, promoted.URL("postgres"), Config{Kinds: kinds.All()})
	revoke(t, after)
	t.Logf("two primaries: the revocation took effect after %v, with connections of 2 s", awaitRevoked(t, short).Round(time.Millisecond))
	if is, _ := allowed(forever, "a", worker); !is {
		t.Error("a connection with a lifetime of an hour changed servers: the test proves nothing")
	}
	// Writes go to the new primary, too.
	create(t, short, document("b", "abc", worker))
	if got := promoted.Query("postgres", "SELECT count(*) FROM integrations WHERE id = 'b'"); got != "1" {
		t.Error("a write went to the old primary")
	}

	old.Query("postgres", "ALTER SYSTEM SET default_transaction_read_only = on")
	old.Query("postgres", "SELECT pg_reload_conf()")
	t.Logf("a read-only primary: the revocation took effect after %v", awaitRevoked(t, forever).Round(time.Millisecond))
}

// TestReadOnlyServer: a server that has become read-only without a successor is an outage.
// The Store reports it, and refuses calls after MaxOutage.
func TestReadOnlyServer(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t)
	s := running(t, openPostgres(t, server.URL("postgres"), Config{Kinds: kinds.All(), MaxOutage: 2 * time.Second}))
	grant(t, s)
	for _, set := range []string{"on", "off"} {
		server.Query("postgres", "ALTER SYSTEM SET default_transaction_read_only = "+set)
		server.Query("postgres", "SELECT pg_reload_conf()")
		if set == "on" {
			await(t, "calls are refused", func() bool { return s.Status().Refuses })
			if st := s.Status(); !strings.Contains(st.Problem, "read-only") && !strings.Contains(st.Problem, "read only") {
				t.Errorf("%+v", st)
			}
		}
	}
	await(t, "calls are answered again", func() bool { _, err := s.Get("a"); return err == nil && s.Status().Problem == "" })
}

// opening opens a Store in the background and closes it when the test ends.
func opening(url string, c Config) <-chan error {
	opened := make(chan error, 1)
	go func() {
		s, err := OpenPostgres(context.Background(), Postgres{URL: url}, c)
		if err == nil {
			err = s.Close()
		}
		opened <- err
	}()
	return opened
}

// ownDatabase returns the address of a database that a role of its own owns.
func ownDatabase(t *testing.T) (server *pgtest.Server, url string) {
	t.Helper()
	server = pgtest.New(t)
	server.Query("postgres", "CREATE ROLE broker LOGIN")
	server.Query("postgres", "CREATE DATABASE secretbroker OWNER broker")
	return server, strings.Replace(server.URL("secretbroker"), "postgres@", "broker@", 1)
}

// TestStartDuringAFailover: a start waits for a server that is read-only, has no free
// connection, or is not running. Other errors end the start at once.
func TestStartDuringAFailover(t *testing.T) {
	t.Parallel()
	server, url := ownDatabase(t)
	for name, tt := range map[string]struct{ begin, end string }{
		"read-only":            {"ALTER DATABASE secretbroker SET default_transaction_read_only = on", "ALTER DATABASE secretbroker RESET default_transaction_read_only"},
		"too many connections": {"ALTER ROLE broker CONNECTION LIMIT 0", "ALTER ROLE broker CONNECTION LIMIT -1"},
	} {
		t.Run(name, func(t *testing.T) {
			server.Query("postgres", tt.begin)
			var log asynctest.Buffer
			opened := opening(url, Config{Kinds: kinds.All(), Logger: log.Logger()})
			await(t, "the start waits", func() bool { return strings.Contains(log.String(), "waiting for the integrations' database") })
			server.Query("postgres", tt.end)
			if err := <-opened; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestMigrationsOfNothingWriteNothing: a start with current tables writes nothing, and
// needs no permission to.
func TestMigrationsOfNothingWriteNothing(t *testing.T) {
	t.Parallel()
	server, url := ownDatabase(t)
	openPostgres(t, url, Config{Kinds: kinds.All()})
	server.Query("secretbroker", "ALTER SCHEMA public OWNER TO postgres; REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT USAGE ON SCHEMA public TO broker; ALTER DATABASE secretbroker OWNER TO postgres")
	before := server.Query("secretbroker", "SELECT pg_current_xact_id()")
	openPostgres(t, url, Config{Kinds: kinds.All()})
	if after := server.Query("secretbroker", "SELECT pg_current_xact_id()::text::bigint - "+before); after != "1" {
		t.Errorf("a start used %s writing transactions", after)
	}
	file := filepath.Join(t.TempDir(), "r.db")
	s := openSQLite(t, file, Config{Kinds: kinds.All()})
	version := func() (v int) {
		if err := s.looks.QueryRowContext(t.Context(), "PRAGMA data_version").Scan(&v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	first := version()
	openSQLite(t, file, Config{Kinds: kinds.All()})
	if now := version(); now != first {
		t.Error("a start wrote to the file")
	}
}
