//go:build unix

// Package pgtest runs a real PostgreSQL server for tests (see pgserver).
//
// Tests are skipped on a machine without PostgreSQL, unless SECRETBROKER_TEST_POSTGRES is
// "required".
package pgtest

import (
	"errors"
	"os"
	"testing"

	"github.com/secretbroker/secretbroker/internal/registry/sqlstore/pgserver"
)

// Server is a pgserver.Server that reports its failures to the test. Its methods must be
// called from the test's goroutine.
type Server struct {
	t      testing.TB
	server *pgserver.Server
}

// New creates a cluster and starts its server, which stops when the test ends.
func New(t testing.TB) *Server {
	t.Helper()
	server, err := pgserver.New()
	if errors.Is(err, pgserver.ErrMissing) && os.Getenv("SECRETBROKER_TEST_POSTGRES") != "required" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() }) // a directory that remains must not fail the test
	return &Server{t: t, server: server}
}

// Standby copies the cluster and starts the copy as a standby, which follows this server
// until Promote and stops when the test ends.
func (s *Server) Standby() *Server {
	s.t.Helper()
	server, err := s.server.Standby()
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = server.Close() }) // as in New
	return &Server{t: s.t, server: server}
}

// CatchUp waits until a standby has everything that the primary has committed.
func (s *Server) CatchUp(primary *Server) {
	s.t.Helper()
	if err := s.server.CatchUp(primary.server); err != nil {
		s.t.Fatal(err)
	}
}

// Promote makes a standby a primary. The server that it followed is not notified.
func (s *Server) Promote() {
	s.t.Helper()
	if err := s.server.Promote(); err != nil {
		s.t.Fatal(err)
	}
}

// Start starts the server again and waits until it answers.
func (s *Server) Start() {
	s.t.Helper()
	if err := s.server.Start(); err != nil {
		s.t.Fatal(err)
	}
}

// Kill kills the server, as a loss of its machine would.
func (s *Server) Kill() { s.server.Kill() }

// URL returns the address of a database on the server's Unix socket.
func (s *Server) URL(database string) string { return s.server.URL(database) }

// Addr returns the server's address on the loopback interface.
func (s *Server) Addr() string { return s.server.Addr() }

// Data returns the directory of the cluster.
func (s *Server) Data() string { return s.server.Data() }

// CreateDatabase creates an empty database.
func (s *Server) CreateDatabase(name string) {
	s.t.Helper()
	if err := s.server.CreateDatabase(name); err != nil {
		s.t.Fatal(err)
	}
}

// Query runs SQL with psql and returns what it prints.
func (s *Server) Query(database, sql string) string {
	s.t.Helper()
	return s.must(s.server.Query(database, sql))
}

// Dump returns the content of a database, as a backup contains it.
func (s *Server) Dump(database string) string {
	s.t.Helper()
	return s.must(s.server.Dump(database))
}

func (s *Server) must(out string, err error) string {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}
