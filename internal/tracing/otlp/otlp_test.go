package otlp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/secretbroker/secretbroker/internal/tracing"
	"github.com/secretbroker/secretbroker/internal/tracing/otlp/otlptest"
	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newExporter(t *testing.T, c Config) *Exporter {
	t.Helper()
	e, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

var someSpans = []tracing.Span{
	{Trace: tracing.TraceID{1}, ID: tracing.SpanID{2}, Start: time.Unix(1, 0), End: time.Unix(2, 0)},
	{Trace: tracing.TraceID{1}, ID: tracing.SpanID{3}, Start: time.Unix(1, 0), End: time.Unix(2, 0)},
}

// TestTLS: the collector must prove its name, and the broker presents a certificate.
func TestTLS(t *testing.T) {
	ca, other := trusttest.NewCA(t, "collectors"), trusttest.NewCA(t, "others")
	server := ca.Issue(func(c *x509.Certificate) { c.DNSNames = []string{"localhost"} })
	client := ca.Client("spiffe://example.org/broker")
	collector := otlptest.Start(t, credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{*server}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.Pool(), MinVersion: tls.VersionTLS12,
	}))
	_, port, _ := net.SplitHostPort(collector.Addr)
	config := func(roots *x509.CertPool, certs ...tls.Certificate) *tls.Config {
		return &tls.Config{RootCAs: roots, Certificates: certs, MinVersion: tls.VersionTLS12}
	}
	for name, tt := range map[string]struct {
		config *tls.Config
		good   bool
	}{
		"mutual TLS":                       {config(ca.Pool(), *client), true},
		"no client certificate":            {config(ca.Pool()), false},
		"client certificate of another CA": {config(ca.Pool(), *other.Client("spiffe://example.org/broker")), false},
		"collector of another CA":          {config(other.Pool(), *client), false},
		"the system's authorities":         {config(nil, *client), false},
		"plaintext":                        {nil, false},
	} {
		e := newExporter(t, Config{Endpoint: "localhost:" + port, TLS: tt.config})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := e.Export(ctx, someSpans)
		cancel()
		if (err == nil) != tt.good {
			t.Errorf("%s: %v", name, err)
		}
	}
	e := newExporter(t, Config{Endpoint: "127.0.0.1:" + port, TLS: config(ca.Pool(), *client)})
	if _, err := e.Export(t.Context(), someSpans); err == nil {
		t.Error("a certificate with another name was accepted")
	}
	if n := len(collector.Requests()); n != 1 {
		t.Errorf("%d requests arrived", n)
	}
}

// TestAnswers: the collector's answer determines whether spans are sent again.
func TestAnswers(t *testing.T) {
	collector := otlptest.Start(t, nil)
	e := newExporter(t, Config{Endpoint: collector.Addr})
	with := func(code codes.Code, after time.Duration) error {
		st, err := status.New(code, strings.Repeat("collector's words ", 100)).WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
		if err != nil {
			t.Fatal(err)
		}
		return st.Err()
	}
	for _, tt := range []struct {
		answer   error
		rejected int64
		again    bool
		after    time.Duration
	}{
		{nil, 0, false, 0},
		{nil, 2, false, 0},
		{status.Error(codes.Unavailable, "down"), 0, true, 0},
		{with(codes.Unavailable, time.Minute), 0, true, time.Minute},
		{status.Error(codes.ResourceExhausted, "too much"), 0, false, 0},
		{with(codes.ResourceExhausted, time.Second), 0, true, time.Second},
		{status.Error(codes.Aborted, ""), 0, true, 0},
		{status.Error(codes.DataLoss, ""), 0, true, 0},
		{status.Error(codes.Unimplemented, "no traces here"), 0, false, 0},
		{status.Error(codes.PermissionDenied, ""), 0, false, 0},
		{with(codes.InvalidArgument, time.Second), 0, false, 0},
	} {
		collector.Answer(func(context.Context) (int64, error) { return tt.rejected, tt.answer })
		rejected, err := e.Export(t.Context(), someSpans)
		again, isAgain := errors.AsType[*tracing.RetryError](err)
		if (err == nil) != (tt.answer == nil) || rejected != int(tt.rejected) || isAgain != tt.again || isAgain && again.After != tt.after {
			t.Errorf("%v: %d, %v", tt.answer, rejected, err)
		}
		if err != nil && (len(err.Error()) > 400 || !strings.Contains(err.Error(), status.Code(tt.answer).String())) {
			t.Errorf("%v", err)
		}
	}
}

// TestBounds: an Export ends with its context, with Close, and at once if nothing listens on
// the endpoint.
func TestBounds(t *testing.T) {
	collector := otlptest.Start(t, nil)
	begun := make(chan struct{}, 2)
	collector.Answer(func(ctx context.Context) (int64, error) {
		begun <- struct{}{}
		<-ctx.Done()
		return 0, ctx.Err()
	})
	e := newExporter(t, Config{Endpoint: collector.Addr})
	again := func(err error) {
		t.Helper()
		if _, ok := errors.AsType[*tracing.RetryError](err); !ok {
			t.Errorf("got %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	_, err := e.Export(ctx, someSpans)
	again(err)

	closing, err := New(Config{Endpoint: collector.Addr})
	if err != nil {
		t.Fatal(err)
	}
	go func() { <-begun; _ = closing.Close() }()
	_, err = closing.Export(t.Context(), someSpans)
	again(err)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	_, err = newExporter(t, Config{Endpoint: l.Addr().String()}).Export(t.Context(), someSpans)
	again(err)
}

// TestEnvironment: the Exporter ignores OpenTelemetry's and proxies' environment variables.
func TestEnvironment(t *testing.T) {
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "ALL_PROXY", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"} {
		t.Setenv(name, "http://127.0.0.1:1")
	}
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "a=canary")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "a=canary")
	t.Setenv("OTEL_SERVICE_NAME", "canary")
	collector := otlptest.Start(t, nil)
	if _, err := newExporter(t, Config{Endpoint: collector.Addr}).Export(t.Context(), someSpans); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(collector.Text(t), "canary") {
		t.Error("a trace contains values of environment variables")
	}
}
