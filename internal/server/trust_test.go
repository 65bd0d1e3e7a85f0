package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/denial"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/trust"
	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
)

// trustedServer is a listening Server whose certificate, authorities and CRL are files of
// the test.
type trustedServer struct {
	*testServer
	ca    *trusttest.CA
	files trusttest.Files
	trust *trust.Store
	// denials is the deny list.
	denials *denial.Set
	ahead   atomic.Int64 // offset of the clock that checks certificates
}

func startTrusted(t *testing.T, limits Limits, rules IdentityRules, change ...func(*Config)) *trustedServer {
	t.Helper()
	s := &trustedServer{ca: trusttest.NewCA(t, "clients"), denials: denial.NewSet()}
	s.testServer = &testServer{resolver: &fakeResolver{}, manager: &fakeManager{}, log: &asynctest.Buffer{}, metrics: prometheus.NewRegistry()}
	s.files = s.ca.Write(t.TempDir())
	log := slog.New(slog.NewTextHandler(s.log, nil))
	var err error
	s.trust, err = trust.OpenFiles(trust.FilesConfig{
		CertFile: s.files.Cert, KeyFile: s.files.Key, ClientCAFile: s.files.ClientCA, CRLFiles: []string{s.files.CRL},
		Options: trust.Options{Logger: log, Now: func() time.Time { return time.Now().Add(time.Duration(s.ahead.Load())) }},
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Resolver: s.resolver, Manager: s.manager, Denials: s.denials, Version: "v1.2.3",
		Trust: s.trust, Identity: rules, Logger: log, Metrics: s.metrics, Limits: limits,
	}
	for _, c := range change {
		c(&cfg)
	}
	s.Server, err = New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.recheck = 10 * time.Millisecond
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.Serve(l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s.Shutdown(ctx)
		serving.Wait()
	})
	return s
}

func (s *trustedServer) dial(t *testing.T, cert *tls.Certificate) *grpc.ClientConn {
	t.Helper()
	return s.dialWith(t, credentials.NewTLS(&tls.Config{RootCAs: s.ca.Pool(), Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS13}))
}

// ended waits until the client notices that its connection has ended.
func ended(t *testing.T, conn *grpc.ClientConn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if !conn.WaitForStateChange(ctx, connectivity.Ready) {
		t.Fatal("the connection is still open")
	}
}

func counted(t *testing.T, metrics *prometheus.Registry, name string, want float64) {
	t.Helper()
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			if got := f.GetMetric()[0].GetCounter().GetValue(); got != want {
				t.Errorf("%s is %v, want %v", name, got, want)
			}
			return
		}
	}
	t.Errorf("there is no %s", name)
}

// TestOpenConnectionIsCut: the server closes the connection of a peer that it would no longer
// accept, with its active calls, and the peer cannot reconnect. Other peers keep theirs.
func TestOpenConnectionIsCut(t *testing.T) {
	tests := map[string]func(s *trustedServer, victim *x509.Certificate, other *trusttest.CA){
		"revoked": func(s *trustedServer, victim *x509.Certificate, other *trusttest.CA) {
			trusttest.Put(s.ca.T(), s.files.CRL, trusttest.PEM("X509 CRL", s.ca.CRL(nil), other.CRL(nil, victim)))
			s.trust.Reload()
		},
		"authority taken out": func(s *trustedServer, _ *x509.Certificate, _ *trusttest.CA) {
			trusttest.Put(s.ca.T(), s.files.ClientCA, s.ca.PEM())
			s.trust.Reload()
		},
		// Nothing is reloaded: the certificate expires.
		"expired": func(s *trustedServer, _ *x509.Certificate, _ *trusttest.CA) {
			s.ahead.Store(int64(31 * time.Minute))
		},
	}
	for name, revoke := range tests {
		t.Run(name, func(t *testing.T) {
			s := startTrusted(t, Limits{}, IdentityRules{})
			other := trusttest.NewCA(t, "others")
			trusttest.Put(t, s.files.ClientCA, trusttest.PEM("CERTIFICATE", s.ca.Cert.Raw, other.Cert.Raw))
			s.trust.Reload()
			trusttest.Put(t, s.files.CRL, trusttest.PEM("X509 CRL", s.ca.CRL(nil), other.CRL(nil)))
			s.trust.Reload()
			if p := s.trust.Problems(); len(p) > 0 {
				t.Fatal(p)
			}
			victim := other.Issue(func(c *x509.Certificate) {
				c.URIs, c.NotAfter = s.ca.Client(string(granted)).Leaf.URIs, time.Now().Add(30*time.Minute)
			})
			bad, good := s.dial(t, victim), s.dial(t, s.ca.Client(string(granted)))
			for _, conn := range []*grpc.ClientConn{bad, good} {
				if _, err := ask(t, conn, &secretbrokerv1.ResolveRequest{}); err != nil {
					t.Fatal(err)
				}
			}
			// Each caller has an active call.
			begun, finish := make(chan context.Context, 2), make(chan struct{})
			s.resolver.mu.Lock()
			s.resolver.next = func(ctx context.Context) (*resolve.Result, error) {
				begun <- ctx
				select {
				case <-ctx.Done():
					return nil, ctx.Err()
				case <-finish:
					return &resolve.Result{}, nil
				}
			}
			s.resolver.mu.Unlock()
			answers := make([]chan error, 2)
			for i, conn := range []*grpc.ClientConn{bad, good} {
				answers[i] = make(chan error, 1)
				go func() {
					_, err := ask(t, conn, &secretbrokerv1.ResolveRequest{})
					answers[i] <- err
				}()
				<-begun
			}
			revoke(s, victim.Leaf, other)
			if err := <-answers[0]; status.Code(err) != codes.Unavailable {
				t.Errorf("the active call got %v", err)
			}
			ended(t, bad)
			close(finish)
			if err := <-answers[1]; err != nil {
				t.Errorf("another caller's call failed: %v", err)
			}
			if state := good.GetState(); state != connectivity.Ready {
				t.Errorf("another caller's connection is %v", state)
			}
			if _, err := ask(t, bad, &secretbrokerv1.ResolveRequest{}); status.Code(err) != codes.Unavailable {
				t.Errorf("it could reconnect: %v", err)
			}
			counted(t, s.metrics, "secretbroker_tls_connections_cut_total", 1)
			if log := s.log.String(); strings.Count(log, "closed a connection") != 1 || !strings.Contains(log, "principal="+string(granted)) {
				t.Errorf("log: %s", log)
			}
		})
	}
}

// TestRotationDropsNothing: while certificate and CRL are replaced repeatedly, connections
// with valid certificates stay open, new ones are accepted, and no call fails.
func TestRotationDropsNothing(t *testing.T) {
	s := startTrusted(t, Limits{}, IdentityRules{})
	worker := s.ca.Client(string(granted))
	lasting := s.dial(t, worker)
	if _, err := ask(t, lasting, &secretbrokerv1.ResolveRequest{}); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var callers sync.WaitGroup
	var calls, connections atomic.Int64
	for range 4 {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := ask(t, lasting, &secretbrokerv1.ResolveRequest{}); err != nil {
					t.Errorf("on the existing connection: %v", err)
					return
				}
				calls.Add(1)
			}
		})
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				conn := s.dial(t, worker)
				if _, err := ask(t, conn, &secretbrokerv1.ResolveRequest{}); err != nil {
					t.Errorf("on a new connection: %v", err)
					return
				}
				conn.Close()
				connections.Add(1)
			}
		})
	}
	var last *tls.Certificate
	for i := range 50 {
		last = s.ca.Server()
		trusttest.Put(t, s.files.Cert, trusttest.CertPEM(last))
		if i%5 == 0 {
			s.trust.Reload() // certificate and key do not match here
		}
		trusttest.Put(t, s.files.Key, trusttest.KeyPEM(t, last))
		trusttest.Put(t, s.files.CRL, s.ca.CRL(nil))
		s.trust.Reload()
		for before := connections.Load(); connections.Load() == before && !t.Failed(); {
			<-time.After(time.Millisecond)
		}
	}
	close(stop)
	callers.Wait()
	if state := lasting.GetState(); state != connectivity.Ready {
		t.Errorf("the existing connection is %v", state)
	}
	conn, err := tls.Dial("tcp", s.addr, &tls.Config{RootCAs: s.ca.Pool(), Certificates: []tls.Certificate{*worker}, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if !conn.ConnectionState().PeerCertificates[0].Equal(last.Leaf) {
		t.Error("the server does not use the latest certificate")
	}
	counted(t, s.metrics, "secretbroker_tls_connections_cut_total", 0)
	t.Logf("%d calls, %d connections", calls.Load(), connections.Load())
}

// TestAccountIsKept: a closed connection leaves no state.
func TestAccountIsKept(t *testing.T) {
	s := startTrusted(t, Limits{}, IdentityRules{})
	for range 20 {
		conn := s.dial(t, s.ca.Client(string(granted)))
		if _, err := ask(t, conn, &secretbrokerv1.ResolveRequest{}); err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(time.Millisecond) {
		s.connections.mu.Lock()
		open, of := len(s.connections.open), len(s.connections.of)
		s.connections.mu.Unlock()
		if open == 0 && of == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d connections of %d principals are left", open, of)
		}
	}
}
