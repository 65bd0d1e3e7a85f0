//go:build unix

// Package pgserver runs a real PostgreSQL server for tests and measurements, with its own
// cluster in a temporary directory, which the caller may kill and start again.
//
// It needs the server's programs (Debian's package postgresql). Package pgtest wraps it
// for tests.
package pgserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrMissing is returned by New if PostgreSQL is not installed.
var ErrMissing = errors.New("PostgreSQL is not installed on this machine; install the package postgresql")

// Server is a PostgreSQL server. Its methods must not be called concurrently.
type Server struct {
	bin        string
	data       string
	sockets    string
	port       int
	credential *syscall.Credential // nil means the user of this process

	process *os.Process // nil while the server is stopped
	ended   chan struct{}
}

// New creates a cluster and starts its server. The caller closes it.
func New() (*Server, error) {
	return start(func(s *Server) error {
		_, err := s.run("initdb", "--pgdata", s.data, "--username", "postgres", "--auth", "trust", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync")
		return err
	})
}

// Standby copies the cluster with pg_basebackup and starts the copy as a hot
// standby, which follows s until Promote. The caller closes it.
func (s *Server) Standby() (*Server, error) {
	return start(func(copied *Server) error {
		_, err := copied.run("pg_basebackup", "--pgdata", copied.data, "--write-recovery-conf", "--checkpoint", "fast", "--no-sync",
			"--host", s.sockets, "--port", strconv.Itoa(s.port), "--username", "postgres")
		return err
	})
}

// start starts a server in a new directory after fill has created its cluster.
func start(fill func(*Server) error) (_ *Server, err error) {
	bin, err := programs()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "pgtest") // a socket's path has at most 107 bytes
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin, data: filepath.Join(dir, "data"), sockets: dir, port: port}
	if os.Geteuid() == 0 { // PostgreSQL refuses to run as root
		if s.credential, err = unprivileged(); err != nil {
			return nil, err
		}
		if err := os.Chown(dir, int(s.credential.Uid), int(s.credential.Gid)); err != nil {
			return nil, err
		}
	}
	if err := fill(s); err != nil {
		return nil, err
	}
	return s, s.Start()
}

// CatchUp waits until a standby has everything that the primary has committed.
func (s *Server) CatchUp(primary *Server) error {
	position, err := primary.Query("postgres", "SELECT pg_current_wal_lsn()")
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); ; <-time.After(20 * time.Millisecond) {
		done, err := s.Query("postgres", "SELECT pg_last_wal_replay_lsn() >= '"+position+"'")
		if err != nil || done == "t" {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New("timed out waiting for the standby to catch up")
		}
	}
}

// Promote makes a standby a primary. The server that it followed is not notified: if it
// still runs, there are two primaries.
func (s *Server) Promote() error {
	_, err := s.Query("postgres", "SELECT pg_promote()")
	return err
}

// Close stops the server if it runs, and removes its files.
func (s *Server) Close() error {
	s.end(syscall.SIGQUIT)
	return os.RemoveAll(s.sockets)
}

// programs returns the directory of the newest version of PostgreSQL's programs.
func programs() (string, error) {
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(dirs) > 0 {
		return filepath.Dir(dirs[len(dirs)-1]), nil
	}
	if path, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(path), nil
	}
	return "", ErrMissing
}

// unprivileged returns the user that the postgresql package creates, or the user nobody.
func unprivileged() (*syscall.Credential, error) {
	u, err := user.Lookup("postgres")
	if err != nil {
		u, err = user.Lookup("nobody")
	}
	if err != nil {
		return nil, err
	}
	uid, _ := strconv.ParseUint(u.Uid, 10, 32)
	gid, _ := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func freePort() (int, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.Join(fmt.Errorf("unexpected address %v", l.Addr()), l.Close())
	}
	return addr.Port, l.Close()
}

// Start starts the server and waits until it answers.
func (s *Server) Start() error {
	// After a kill, the old server's processes must first detect that it has ended.
	for deadline := time.Now().Add(time.Minute); ; <-time.After(50 * time.Millisecond) {
		err := s.tryStart()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the server does not start: %w\n%s", err, s.log())
		}
	}
}

func (s *Server) log() []byte {
	log, _ := os.ReadFile(filepath.Join(s.sockets, "log")) // an empty log is acceptable in the error
	return log
}

func (s *Server) tryStart() error {
	log, err := os.OpenFile(filepath.Join(s.sockets, "log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	// The server is a child of this process, which must reap it: the next server would
	// assume that a zombie is a running server.
	cmd := s.command(context.Background(), "postgres", "-D", s.data, "-k", s.sockets, "-p", strconv.Itoa(s.port),
		"-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=200")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // reports only the signal
		close(ended)
	}()
	for {
		if _, err := s.tryRun("pg_isready", "--quiet", "--host", s.sockets, "--port", strconv.Itoa(s.port)); err == nil {
			s.process, s.ended = cmd.Process, ended
			return nil
		}
		select {
		case <-ended:
			return errors.New("it ended")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Kill kills the server, as a loss of its machine would.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

// end sends a signal and waits until the server has ended.
func (s *Server) end(sig syscall.Signal) {
	if s.process == nil {
		return
	}
	_ = s.process.Signal(sig)
	<-s.ended
	s.process = nil
}

// URL returns the address of a database on the server's Unix socket.
func (s *Server) URL(database string) string {
	return fmt.Sprintf("postgres://postgres@/%s?host=%s&port=%d", database, url.QueryEscape(s.sockets), s.port)
}

// Addr returns the server's address on the loopback interface.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// Data returns the directory of the cluster.
func (s *Server) Data() string { return s.data }

// CreateDatabase creates an empty database.
func (s *Server) CreateDatabase(name string) error {
	_, err := s.run("createdb", "--host", s.sockets, "--port", strconv.Itoa(s.port), "--username", "postgres", name)
	return err
}

// Query runs SQL with psql and returns what it prints.
func (s *Server) Query(database, sql string) (string, error) {
	return s.run("psql", "--host", s.sockets, "--port", strconv.Itoa(s.port), "--username", "postgres", "--no-psqlrc",
		"--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1", "--command", sql, database)
}

// Dump returns the content of a database, as a backup contains it.
func (s *Server) Dump(database string) (string, error) {
	return s.run("pg_dump", "--host", s.sockets, "--port", strconv.Itoa(s.port), "--username", "postgres", database)
}

func (s *Server) run(program string, args ...string) (string, error) {
	out, err := s.tryRun(program, args...)
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s\n%s", program, err, out, s.log())
	}
	return out, nil
}

func (s *Server) tryRun(program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out, err := s.command(ctx, program, args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (s *Server) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, program), args...) //nolint:gosec // the server's own programs
	cmd.Dir = s.sockets
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if s.credential != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.credential}
	}
	return cmd
}
