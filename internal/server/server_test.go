package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/explain"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/trust"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	granted   = authz.Principal("spiffe://example.org/connect/worker-1")
	auditorID = authz.Principal("spiffe://example.org/ops/auditor")
	ownerID   = authz.Principal("spiffe://example.org/ops/owner")
)

// fakeResolver answers the granted principal and records who asked.
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

func (f *fakeResolver) Explain(_ context.Context, _ resolve.Caller, _ string, q explain.Question) (explain.Answer, error) {
	return explain.Answer{
		Reference: q.Reference,
		Readers:   []explain.Access{{IntegrationID: "cspi", Grant: 2, Principal: "spiffe://example.org/*"}},
		Judgements: []explain.Judgement{{
			IntegrationID: "cspi", Allowed: true, Grant: 2, Explanation: "because", Grants: []authz.Match{{Principal: "x", Store: true, Secret: true, Key: true}, {}},
		}},
	}, nil
}

// testServer is a listening Server.
type testServer struct {
	*Server
	ca       *testCA
	addr     string
	resolver *fakeResolver
	manager  *fakeManager
	log      *safeBuffer
	metrics  *prometheus.Registry
}

// safeBuffer is a log that the server writes while the test reads.
type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func startServer(t *testing.T) *testServer {
	t.Helper()
	ts := &testServer{ca: newTestCA(t), resolver: &fakeResolver{}, manager: &fakeManager{}, log: &safeBuffer{}, metrics: prometheus.NewRegistry()}
	certFile, keyFile, caFile := ts.ca.files(ts.ca.server())
	identity, err := trust.OpenFiles(trust.FilesConfig{CertFile: certFile, KeyFile: keyFile, ClientCAFile: caFile})
	if err != nil {
		t.Fatal(err)
	}
	ts.Server, err = New(Config{
		Resolver:  ts.resolver,
		Explainer: ts.resolver,
		Manager:   ts.manager,
		IsAuditor: func(p authz.Principal) bool { return p == auditorID },
		Trust:     identity,
		Logger:    slog.New(slog.NewTextHandler(ts.log, nil)),
		Metrics:   ts.metrics,
		Limits:    Limits{MaxConnectionsPerPrincipal: 4},
	})
	if err != nil {
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

// dial connects with a certificate, or with none.
func (ts *testServer) dial(t *testing.T, cert *tls.Certificate) *grpc.ClientConn {
	t.Helper()
	cfg := &tls.Config{RootCAs: ts.ca.pool(), MinVersion: tls.VersionTLS12}
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
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	return secretbrokerv1.NewResolverServiceClient(conn).Resolve(ctx, req)
}

// TestAuthorizationMatrix calls every method that the server serves as every
// kind of caller. A method or a kind without an expectation fails it.
func TestAuthorizationMatrix(t *testing.T) {
	ts := startServer(t)
	stranger := newTestCA(t)
	callers := map[string]*tls.Certificate{
		"without a certificate":         nil,
		"of another CA":                 stranger.withURIs(string(granted)),
		"with an expired certificate":   ts.ca.issue(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }),
		"with a server certificate":     ts.ca.server(),
		"without an identity":           ts.ca.issue(func(*x509.Certificate) {}),
		"with two SPIFFE IDs":           ts.ca.withURIs(string(granted), "spiffe://example.org/connect/worker-2"),
		"with several DNS names":        ts.ca.withDNS("a.example.org", "b.example.org"),
		"without a grant":               ts.ca.withURIs("spiffe://example.org/elsewhere"),
		"known by DNS, without a grant": ts.ca.withDNS("worker.example.org"),
		"an auditor":                    ts.ca.withURIs(string(auditorID)),
		"an owner":                      ts.ca.withURIs(string(ownerID)),
		"granted":                       ts.ca.withURIs(string(granted)),
	}
	// What the wire says to each kind of caller. "refused" callers do not get
	// through the handshake.
	const refusedCode = codes.Unavailable
	refusedCallers := map[string]bool{
		"without a certificate": true, "of another CA": true, "with an expired certificate": true, "with a server certificate": true,
	}
	unidentified := map[string]bool{"without an identity": true, "with two SPIFFE IDs": true, "with several DNS names": true}
	anybody := func(string) codes.Code { return codes.OK }
	// Reflection's own answer to an empty question: it was reached.
	reflected := func(string) codes.Code { return codes.InvalidArgument }
	resolving := func(caller string) codes.Code {
		switch {
		case unidentified[caller]:
			return codes.Unauthenticated
		case caller == "granted":
			return codes.OK
		default:
			return codes.PermissionDenied
		}
	}
	// Who has a role is decided beneath; everybody else with an identity gets there.
	managing := func(may ...string) func(string) codes.Code {
		return func(caller string) codes.Code {
			switch {
			case unidentified[caller]:
				return codes.Unauthenticated
			case slices.Contains(may, caller):
				return codes.OK
			default:
				return codes.PermissionDenied
			}
		}
	}
	want := map[string]func(caller string) codes.Code{
		"/secretbroker.v1.ResolverService/Resolve": resolving,
		// A dry run tells a caller without a grant that it has none.
		"/secretbroker.v1.ResolverService/Check": func(caller string) codes.Code {
			if unidentified[caller] {
				return codes.Unauthenticated
			}
			return codes.OK
		},
		"/secretbroker.v1.PolicyService/Explain": func(caller string) codes.Code {
			switch {
			case unidentified[caller]:
				return codes.Unauthenticated
			case caller == "an auditor":
				return codes.OK
			default:
				return codes.PermissionDenied
			}
		},
		"/secretbroker.v1.IntegrationService/CreateIntegration":          managing("an owner"),
		"/secretbroker.v1.IntegrationService/GetIntegration":             managing("an owner", "an auditor"),
		"/secretbroker.v1.IntegrationService/ListIntegrations":           managing("an owner", "an auditor", "granted", "without a grant", "known by DNS, without a grant"),
		"/secretbroker.v1.IntegrationService/UpdateIntegration":          managing("an owner"),
		"/secretbroker.v1.IntegrationService/DeleteIntegration":          managing("an owner"),
		"/secretbroker.v1.IntegrationService/ValidateIntegration":        managing("an owner"),
		"/secretbroker.v1.IntegrationService/GrantUse":                   managing("an owner"),
		"/secretbroker.v1.IntegrationService/RevokeUse":                  managing("an owner"),
		"/secretbroker.v1.IntegrationService/ListUsage":                  managing("an owner", "an auditor"),
		"/grpc.health.v1.Health/Check":                                   anybody,
		"/grpc.health.v1.Health/List":                                    anybody,
		"/grpc.health.v1.Health/Watch":                                   anybody,
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      reflected,
		"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": reflected,
		"/secretbroker.v1.ResolverService/NoSuchMethod":                  func(string) codes.Code { return codes.Unimplemented },
		"/secretbroker.v1.NoSuchService/Resolve":                         func(string) codes.Code { return codes.Unimplemented },
	}
	methods := map[string]bool{"/secretbroker.v1.ResolverService/NoSuchMethod": false, "/secretbroker.v1.NoSuchService/Resolve": false}
	for service, info := range ts.grpc.GetServiceInfo() {
		for _, m := range info.Methods {
			methods["/"+service+"/"+m.Name] = m.IsServerStream
		}
	}
	for method := range want {
		if _, ok := methods[method]; !ok {
			t.Errorf("%s is expected and not served", method)
		}
	}
	for caller, cert := range callers {
		conn := ts.dial(t, cert)
		for method, streaming := range methods {
			t.Run(strings.TrimPrefix(method, "/")+" "+caller, func(t *testing.T) {
				expect, ok := want[method]
				if !ok {
					t.Fatal("a method that nobody wrote an expectation for")
				}
				code := expect(caller)
				if refusedCallers[caller] {
					code = refusedCode
				}
				if got := status.Code(callAny(t, conn, method, streaming)); got != code {
					t.Errorf("got %v, want %v", got, code)
				}
			})
		}
	}
}

// callAny calls a method with an empty message and takes one answer.
func callAny(t *testing.T, conn *grpc.ClientConn, method string, streaming bool) error {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if !streaming {
		return conn.Invoke(ctx, method, &emptypb.Empty{}, &emptypb.Empty{})
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&healthpb.HealthCheckRequest{}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	err = stream.RecvMsg(&healthpb.HealthCheckResponse{})
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func TestPanicIsInternalAndSilent(t *testing.T) {
	ts := startServer(t)
	ts.resolver.next = func(context.Context) (*resolve.Result, error) { panic("canary") }
	conn := ts.dial(t, ts.ca.withURIs(string(granted)))
	for range 2 { // the server lives on
		_, err := ask(t, conn, &secretbrokerv1.ResolveRequest{})
		if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "canary") {
			t.Errorf("got %v", err)
		}
	}
	if log := ts.log.String(); !strings.Contains(log, "panic") || strings.Contains(log, "canary") {
		t.Errorf("log: %s", log)
	}
}

// TestReplyBeforeTheDeadline: a caller hears why there is no value, instead of
// nothing but its own deadline.
func TestReplyBeforeTheDeadline(t *testing.T) {
	ts := startServer(t)
	ts.resolver.next = func(ctx context.Context) (*resolve.Result, error) {
		<-ctx.Done()
		return nil, secret.Errorf(secret.ReasonStoreUnavailable, "the store is slow").WithCause(ctx.Err())
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := secretbrokerv1.NewResolverServiceClient(ts.dial(t, ts.ca.withURIs(string(granted)))).Resolve(ctx, &secretbrokerv1.ResolveRequest{})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
}

func TestMessageSizeLimit(t *testing.T) {
	ts := startServer(t)
	_, err := ask(t, ts.dial(t, ts.ca.withURIs(string(granted))), &secretbrokerv1.ResolveRequest{Connector: strings.Repeat("x", 1<<20+1)})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("got %v", err)
	}
}
