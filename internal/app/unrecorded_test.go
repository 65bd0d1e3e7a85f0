package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/admission"
	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/devmode"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/server"
)

// ledger is the file of an audit log in a test. Like a disk under load, a write takes until
// more calls wait for it, within a time limit. It fails when the test says so.
type ledger struct {
	mu       sync.Mutex
	more     *sync.Cond // signals begun
	begun    int        // calls so far
	written  int        // lines
	last     int        // lines of the last write
	loaded   bool       // callers keep calling
	recorded map[string]bool

	// fault, if set, replaces the write after two writes in a row with many calls, so
	// that the commit barrier delays answers.
	fault func(p []byte) (int, error)
	hit   bool // fault has begun
}

// many is the number of calls per write from which the commit barrier delays answers.
const many = 8

func newLedger() *ledger {
	l := &ledger{recorded: make(map[string]bool)}
	l.more = sync.NewCond(&l.mu)
	return l
}

func (l *ledger) Write(p []byte) (int, error) {
	lines := bytes.Count(p, []byte{'\n'})
	patient := true
	timer := time.AfterFunc(100*time.Millisecond, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		patient = false
		l.more.Broadcast()
	})
	defer timer.Stop()
	l.mu.Lock()
	l.written += lines
	for patient && l.loaded && !l.hit && l.begun-l.written < 2*many {
		l.more.Wait()
	}
	l.hit = l.hit || l.fault != nil && min(lines, l.last) >= many
	fault := l.fault
	if !l.hit {
		fault = nil
	}
	l.last = lines
	l.mu.Unlock()
	n, err := len(p), error(nil)
	if fault != nil {
		n, err = fault(p)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range bytes.Lines(p[:n]) {
		var e audit.Event
		if bytes.HasSuffix(line, []byte{'\n'}) && json.Unmarshal(line, &e) == nil {
			l.recorded[e.RequestID] = true
		}
	}
	return n, err
}

// set changes how the ledger behaves.
func (l *ledger) set(loaded bool, fault func(p []byte) (int, error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.loaded, l.fault, l.hit = loaded, fault, false
	l.more.Broadcast()
}

func (l *ledger) has(requestID string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.recorded[requestID]
}

// countedLog counts the calls for the ledger.
type countedLog struct {
	*audit.Log
	ledger *ledger
}

func (c countedLog) Begin(events []audit.Event) (audit.Receipt, audit.Position, error) {
	c.ledger.mu.Lock()
	c.ledger.begun++
	c.ledger.more.Broadcast()
	c.ledger.mu.Unlock()
	return c.Log.Begin(events)
}

// oneSecret is every secret of a store.
type oneSecret string

func (v oneSecret) Fetch(context.Context, *integration.Integration, secret.Ref) (*secret.Secret, error) {
	return secret.New("v1", time.Now(), time.Time{}, []byte(v)), nil
}

// recordedServer is a server with only the parts of a broker that answer and record a call.
type recordedServer struct {
	*server.Server
	*devmode.Environment
	addr    string
	log     *audit.Log
	ledger  *ledger
	metrics *prometheus.Registry
	served  chan error
}

const theValue = "value-that-must-be-recorded"

func newRecordedServer(t *testing.T) *recordedServer {
	t.Helper()
	s := &recordedServer{Environment: newEnvironment(t), ledger: newLedger(), metrics: prometheus.NewRegistry(), served: make(chan error, 1)}
	silent := slog.New(slog.DiscardHandler)
	cfg, err := config.Load(s.ConfigFile)
	if err != nil {
		t.Fatal(err)
	}
	identity, rules, err := openTrust(t.Context(), cfg, silent)
	if err != nil {
		t.Fatal(err)
	}
	integrations, err := openIntegrations(t.Context(), cfg, silent, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	values, err := cache.New(cache.Config{Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(values.Close)
	s.log = audit.New(s.ledger)
	t.Cleanup(func() { s.log.Close() })
	resolver := resolve.New(resolve.Config{
		Integrations: integrations, Stores: oneSecret(theValue), Cache: values, CacheTTL: time.Hour, Audit: countedLog{s.log, s.ledger},
	})
	s.Server, err = server.New(server.Config{
		Resolver: resolver, Trust: identity, Identity: rules, Logger: silent, Metrics: s.metrics,
		Limits: server.Limits{Calls: admission.Limits{PerSecond: 1 << 20, PerCaller: 1 << 12, Total: 1 << 12}},
	})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = listener.Addr().String()
	go func() { s.served <- s.Serve(listener) }()
	t.Cleanup(func() { s.shutdown(t) })
	return s
}

// shutdown shuts down like serve: it waits for calls in progress first.
func (s *recordedServer) shutdown(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s.Shutdown(ctx)
	if ctx.Err() != nil {
		t.Error("the shutdown took the whole timeout")
	}
}

// clients returns n clients, each with its own connection.
func (s *recordedServer) clients(t *testing.T, n int) []*client.Client {
	t.Helper()
	cs := make([]*client.Client, n)
	for i := range cs {
		c, err := client.New(client.Config{
			Addrs: []string{s.addr}, CAFile: s.CAFile, CertFile: s.Worker.CertFile, KeyFile: s.Worker.KeyFile,
			MaxAttempts: 1, Timeout: time.Minute, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		cs[i] = c
	}
	return cs
}

// callerLoad is a number of callers that call until the broker is unavailable. Each answer,
// whatever it is, must have been recorded before a caller receives it.
type callerLoad struct {
	callers  sync.WaitGroup
	answered atomic.Int64
	enough   chan struct{} // closed when there were many answers
}

func (s *recordedServer) load(t *testing.T, clients []*client.Client) *callerLoad {
	l := &callerLoad{enough: make(chan struct{})}
	asked := []client.ResolveRequest{
		request("p", vault+"::sqlserver-db-secret"), request("p", vault+"::sqlserver-db-secret"),
		request("p", vault+"::oracle-password"), // denied
		request("p", "rejected"),
	}
	s.ledger.set(true, nil)
	for _, c := range clients {
		for i := range 64 {
			l.callers.Go(func() {
				for s.call(t, c, asked[i%len(asked)]) {
					if l.answered.Add(1) == 1000 {
						close(l.enough)
					}
				}
			})
		}
	}
	ended := make(chan struct{})
	go func() { l.callers.Wait(); close(ended) }()
	select {
	case <-l.enough:
	case <-ended:
		t.Fatal("all callers ended early")
	}
	return l
}

// call reports whether the caller gets an answer other than that the broker is unavailable.
func (s *recordedServer) call(t *testing.T, c *client.Client, req client.ResolveRequest) bool {
	res, err := c.Resolve(t.Context(), req)
	var e *client.Error
	id := ""
	switch {
	case err == nil:
		id = res.RequestID
		if v := res.Values["p"]; v.Reveal() != theValue {
			t.Error("a caller received another value")
		}
	case !errors.As(err, &e):
		t.Errorf("a caller got %v", err)
		return false
	case e.Code == codes.Unavailable:
		return false
	case e.Reason == client.ReasonOverloaded: // not recorded
		return true
	default:
		id = e.RequestID
	}
	if !s.ledger.has(id) {
		t.Errorf("call %q was answered (%v) without a record", id, err)
	}
	return true
}

// unrecorded returns the number of connections that were closed with unsent answers.
func (s *recordedServer) unrecorded(t *testing.T) float64 {
	families, err := s.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "secretbroker_connections_unrecorded_total" {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return 0
}

// TestNothingLeavesUnrecorded: the audit log starts to fail in various ways while many
// callers call on several connections. No caller receives an unrecorded answer or waits for
// ever, later callers get the reason, and calls succeed again when the log does.
func TestNothingLeavesUnrecorded(t *testing.T) {
	for name, tt := range map[string]struct {
		stuck bool // the first write returns after the callers have their errors
		first func(p []byte) (int, error)
		later error
	}{
		"the disk is full":     {first: func([]byte) (int, error) { return 0, syscall.ENOSPC }, later: syscall.ENOSPC},
		"the disk fills up":    {first: func(p []byte) (int, error) { return 2*len(p)/3 + 1, syscall.ENOSPC }, later: syscall.ENOSPC},
		"a write is cut short": {first: func(p []byte) (int, error) { return len(p) / 2, nil }, later: io.ErrClosedPipe},
		"a write hangs":        {stuck: true, first: func(p []byte) (int, error) { return len(p), nil }},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			s := newRecordedServer(t)
			clients := s.clients(t, 4)
			l := s.load(t, clients)
			release := make(chan struct{})
			first := true // the log has one writer
			s.ledger.set(true, func(p []byte) (int, error) {
				if !first {
					return 0, tt.later
				}
				first = false
				if tt.stuck {
					<-release
				}
				return tt.first(p)
			})
			l.callers.Wait()
			if s.unrecorded(t) == 0 {
				t.Error("no answer was delayed: the test is void")
			}
			var later sync.WaitGroup
			for range 64 {
				later.Go(func() {
					var e *client.Error
					_, err := clients[0].Resolve(t.Context(), request("p", vault+"::sqlserver-db-secret"))
					for errors.As(err, &e) && e.Reason == client.ReasonOverloaded {
						_, err = clients[0].Resolve(t.Context(), request("p", vault+"::sqlserver-db-secret"))
					}
					if !errors.As(err, &e) || e.Reason != client.ReasonAuditUnavailable {
						t.Errorf("a later caller got %v", err)
					}
				})
			}
			later.Wait()
			s.ledger.set(false, nil)
			close(release)
			for _, c := range clients {
				for !s.call(t, c, request("p", vault+"::sqlserver-db-secret")) {
				}
			}
		})
	}
}

// TestShutdownWhileStuck: a broker shuts down while its audit log hangs, and no unrecorded
// answer leaves.
func TestShutdownWhileStuck(t *testing.T) {
	s := newRecordedServer(t)
	l := s.load(t, s.clients(t, 4))
	begun, release := make(chan struct{}), make(chan struct{})
	once := sync.OnceFunc(func() { close(begun) })
	s.ledger.set(true, func([]byte) (int, error) {
		once()
		<-release
		return 0, io.ErrClosedPipe
	})
	<-begun
	s.shutdown(t)
	if err := <-s.served; err != nil {
		t.Error(err)
	}
	l.callers.Wait()
	if err := s.log.Close(); err == nil {
		t.Error("Close succeeded although the log is stuck")
	}
	close(release)
}

// TestShutdownUnderLoad: delayed answers are sent during a shutdown after they are recorded.
func TestShutdownUnderLoad(t *testing.T) {
	s := newRecordedServer(t)
	l := s.load(t, s.clients(t, 4))
	s.ledger.set(false, nil)
	s.shutdown(t)
	if err := s.log.Close(); err != nil {
		t.Error(err)
	}
	l.callers.Wait()
	if n := s.unrecorded(t); n != 0 {
		t.Errorf("the answers of %v connections were withheld", n)
	}
}
