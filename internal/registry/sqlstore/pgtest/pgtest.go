//go:build unix

// Package pgtest runs a real PostgreSQL server for tests (see pgserver).
//
// Tests on a machine without PostgreSQL are skipped, unless
// SECRETBROKER_TEST_POSTGRES is "required".
package pgtest

import (
	"errors"
	"os"
	"testing"

	"github.com/secretbroker/secretbroker/internal/registry/sqlstore/pgserver"
)

// Server is a pgserver.Server whose failures fail the test. Its methods are for
// the test's goroutine.
type Server struct {
	t      testing.TB
	server *pgserver.Server
}

// New makes a cluster and starts its server, which ends with the test.
func New(t testing.TB) *Server {
	t.Helper()
	server, err := pgserver.New()
	if errors.Is(err, pgserver.ErrMissing) && os.Getenv("SECRETBROKER_TEST_POSTGRES") != "required" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() }) // a temporary directory that stays fails no test
	return &Server{t: t, server: server}
}

// Standby copies the cluster and starts the copy as a standby, which follows this
// server until Promote and ends with the test.
func (s *Server) Standby() *Server {
	s.t.Helper()
	server, err := s.server.Standby()
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = server.Close() }) // as in New
	return &Server{t: s.t, server: server}
}

// CatchUp waits until a standby has what the primary has committed.
func (s *Server) CatchUp(primary *Server) {
	s.t.Helper()
	if err := s.server.CatchUp(primary.server); err != nil {
		s.t.Fatal(err)
	}
}

// Promote makes a standby a primary. The server that it followed is not told.
func (s *Server) Promote() {
	s.t.Helper()
	if err := s.server.Promote(); err != nil {
		s.t.Fatal(err)
	}
}

// Start starts the server again and returns when it answers.
func (s *Server) Start() {
	s.t.Helper()
	if err := s.server.Start(); err != nil {
		s.t.Fatal(err)
	}
}

// Kill ends the server at once, as the loss of its machine would.
func (s *Server) Kill() { s.server.Kill() }

// URL is the address of a database by the server's Unix socket.
func (s *Server) URL(database string) string { return s.server.URL(database) }

// Addr is the server's address on the loopback.
func (s *Server) Addr() string { return s.server.Addr() }

// Data is the directory of the cluster.
func (s *Server) Data() string { return s.server.Data() }

// CreateDatabase makes an empty database.
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

// Dump returns everything in a database, as a backup has it.
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
