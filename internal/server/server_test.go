package server

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/trust"
	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	granted   = authz.Principal("spiffe://example.org/connect/worker-1")
	auditorID = authz.Principal("spiffe://example.org/ops/auditor")
	ownerID   = authz.Principal("spiffe://example.org/ops/owner")
)

// fakeResolver answers the granted principal and records its last arguments.
type fakeResolver struct {
	mu   sync.Mutex
	who  resolve.Caller
	req  resolve.Request
	ctx  context.Context
	next func(ctx context.Context) (*resolve.Result, error)
}

func (f *fakeResolver) Resolve(ctx context.Context, who resolve.Caller, req resolve.Request) (*resolve.Result, error) {
	f.mu.Lock()
	f.who, f.req, f.ctx = who, req, ctx
	next := f.next
	f.mu.Unlock()
	if next != nil {
		return next(ctx)
	}
	if who.Principal != granted {
		return nil, &resolve.Failure{Configs: []resolve.ConfigError{{Config: "p", Err: secret.Errorf(secret.ReasonAccessDenied, "no grant")}}}
	}
	now := time.Now()
	return &resolve.Result{
		Configs: []resolve.Resolved{{Config: "p", Value: secret.NewValue([]byte("the-value")), Version: "v1", FetchedAt: now, ExpiresAt: now.Add(time.Minute), SecretExpiresAt: now.Add(time.Hour), Stale: true}},
		Errors:  []resolve.ConfigError{{Config: "q", Err: secret.Errorf(secret.ReasonStoreThrottled, "wait").WithCause(errors.New("cause for the log"))}},
	}, nil
}

func (f *fakeResolver) Check(ctx context.Context, who resolve.Caller, req resolve.Request) ([]resolve.Report, error) {
	res, err := f.Resolve(ctx, who, req)
	var failure *resolve.Failure
	if errors.As(err, &failure) {
		return []resolve.Report{{Config: "p", Length: -1, Err: failure.Configs[0].Err}}, nil
	}
	if err != nil {
		return nil, err
	}
	c := res.Configs[0]
	return []resolve.Report{
		{
			Config: "p", Ref: secret.Ref{Kind: secret.KindAzureKeyVault, Store: "https://abc.vault.azure.net", Name: "n", Key: "k"},
			Version: c.Version, FetchedAt: c.FetchedAt, ExpiresAt: c.FetchedAt.Add(time.Hour), HasKey: true, Length: c.Value.Len(),
		},
		{Config: "q", Length: -1, Err: res.Errors[0].Err},
	}, nil
}

// testServer is a listening Server.
type testServer struct {
	*Server
	ca       *trusttest.CA
	addr     string
	resolver *fakeResolver
	manager  *fakeManager
	log      *asynctest.Buffer
	metrics  *prometheus.Registry
}

func startServer(t *testing.T, change ...func(*Config)) *testServer {
	t.Helper()
	ts := &testServer{ca: trusttest.NewCA(t, "test CA"), resolver: &fakeResolver{}, manager: &fakeManager{}, log: &asynctest.Buffer{}, metrics: prometheus.NewRegistry()}
	files := ts.ca.Write(t.TempDir())
	identity, err := trust.OpenFiles(trust.FilesConfig{CertFile: files.Cert, KeyFile: files.Key, ClientCAFile: files.ClientCA})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Resolver: ts.resolver,
		Manager:  ts.manager,
		Trust:    identity,
		Logger:   slog.New(slog.NewTextHandler(ts.log, nil)),
		Metrics:  ts.metrics,
		Limits:   Limits{MaxConnectionsPerPrincipal: 4, ManagementRunning: 16},
	}
	for _, c := range change {
		c(&cfg)
	}
	if ts.Server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ts.addr = l.Addr().String()
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := ts.Serve(l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		ts.Shutdown(ctx)
		serving.Wait()
	})
	return ts
}

// dial connects with a certificate; nil is no certificate.
func (ts *testServer) dial(t *testing.T, cert *tls.Certificate) *grpc.ClientConn {
	t.Helper()
	cfg := &tls.Config{RootCAs: ts.ca.Pool(), MinVersion: tls.VersionTLS12}
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	return ts.dialWith(t, credentials.NewTLS(cfg))
}

func (ts *testServer) dialWith(t *testing.T, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+ts.addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func ask(t *testing.T, conn *grpc.ClientConn, req *secretbrokerv1.ResolveRequest) (*secretbrokerv1.ResolveResponse, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return secretbrokerv1.NewResolverServiceClient(conn).Resolve(ctx, req)
}

func TestPanicIsInternalAndSilent(t *testing.T) {
	ts := startServer(t)
	ts.resolver.next = func(context.Context) (*resolve.Result, error) { panic("canary") }
	conn := ts.dial(t, ts.ca.Client(string(granted)))
	for range 2 { // the server continues
		_, err := ask(t, conn, &secretbrokerv1.ResolveRequest{})
		if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "canary") {
			t.Errorf("got %v", err)
		}
	}
	if log := ts.log.String(); !strings.Contains(log, "panic") || strings.Contains(log, "canary") {
		t.Errorf("log: %s", log)
	}
}

// TestReplyBeforeTheDeadline: a caller gets the reason for the failure before its own
// deadline passes.
func TestReplyBeforeTheDeadline(t *testing.T) {
	ts := startServer(t)
	ts.resolver.next = func(ctx context.Context) (*resolve.Result, error) {
		<-ctx.Done()
		return nil, secret.Errorf(secret.ReasonStoreUnavailable, "the store is slow").WithCause(ctx.Err())
	}
	client := secretbrokerv1.NewResolverServiceClient(ts.dial(t, ts.ca.Client(string(granted))))
	var err error
	for range 5 { // a machine that pauses for 20 ms can miss the deadline
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err = client.Resolve(ctx, &secretbrokerv1.ResolveRequest{})
		cancel()
		if status.Code(err) == codes.Unavailable {
			return
		}
	}
	t.Errorf("got %v", err)
}

func TestMessageSizeLimit(t *testing.T) {
	ts := startServer(t)
	_, err := ask(t, ts.dial(t, ts.ca.Client(string(granted))), &secretbrokerv1.ResolveRequest{Connector: strings.Repeat("x", 1<<20+1)})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("got %v", err)
	}
}
