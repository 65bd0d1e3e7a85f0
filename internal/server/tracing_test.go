package server

import (
	"context"
	"crypto/x509"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/tracing"
)

// spanSink is a tracing.Exporter that stores all spans.
type spanSink struct {
	mu    sync.Mutex
	spans []tracing.Span
}

func (s *spanSink) Export(_ context.Context, spans []tracing.Span) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spans = append(s.spans, spans...)
	return 0, nil
}

// startTraced starts a server with tracing. collect ends the tracing and returns the spans;
// it may be called once.
func startTraced(t *testing.T) (ts *testServer, collect func() []tracing.Span) {
	t.Helper()
	sink := &spanSink{}
	tracer := tracing.New(tracing.Config{Exporter: sink})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = tracer.Run(ctx) })
	collect = func() []tracing.Span {
		cancel()
		running.Wait()
		return sink.spans
	}
	t.Cleanup(func() { collect() })
	return startServer(t, func(c *Config) { c.Tracer = tracer }), collect
}

const sampledParent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// TestTraces: the broker traces the calls whose callers request it, and no others.
func TestTraces(t *testing.T) {
	ts, collect := startTraced(t)
	conn := ts.dial(t, ts.ca.Client(string(granted)))
	answers := make(map[string]*secretbrokerv1.ResolveResponse)
	call := func(conn *grpc.ClientConn, what string, headers ...string) {
		t.Helper()
		ctx := metadata.AppendToOutgoingContext(t.Context(), headers...)
		answers[what], _ = secretbrokerv1.NewResolverServiceClient(conn).Resolve(ctx, &secretbrokerv1.ResolveRequest{IntegrationId: "cspi", Configs: map[string]string{"p": "r"}})
	}
	call(conn, "no header")
	call(conn, "unsampled", "traceparent", sampledParent[:54]+"0")
	call(conn, "malformed", "traceparent", sampledParent[1:])
	call(conn, "two of them", "traceparent", sampledParent, "traceparent", sampledParent)
	call(conn, "another format", "b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1")
	call(conn, "sampled", "traceparent", sampledParent, "tracestate", "canary=1", "baggage", "canary=1")
	// Calls of peers that are refused or have no identity are not traced.
	call(ts.dial(t, ts.ca.Issue(func(*x509.Certificate) {})), "refused", "traceparent", sampledParent)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", sampledParent)
	if _, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	spans := collect()
	if len(spans) != 1 {
		t.Fatalf("%d spans: %+v", len(spans), spans)
	}
	parent, _ := tracing.ParseParent(sampledParent)
	s := spans[0]
	want := tracing.Span{
		Trace: parent.Trace, ID: s.ID, Parent: parent.ID, Step: tracing.Serve, Start: s.Start, End: s.End,
		Method: "/secretbroker.v1.ResolverService/Resolve", RequestID: answers["sampled"].GetRequestId(), Principal: string(granted), Code: "OK",
	}
	if diff := cmp.Diff(want, s); diff != "" || len(s.RequestID) != 32 {
		t.Error(diff)
	}
	if s.RequestID == "4bf92f3577b34da6a3ce929d0e0e4736" {
		t.Error("the caller could choose the request id")
	}
	ts.resolver.mu.Lock()
	defer ts.resolver.mu.Unlock()
	if ts.resolver.req.Trace == nil {
		t.Error("the use case did not get the trace")
	}
}

// TestTracedFailures: a trace has the code and the reason of a failed call, including a call
// that panicked.
func TestTracedFailures(t *testing.T) {
	for name, tt := range map[string]struct {
		next         func(context.Context) (*resolve.Result, error)
		code, reason string
	}{
		"denied": {func(context.Context) (*resolve.Result, error) {
			return nil, &resolve.Failure{Configs: []resolve.ConfigError{{Config: "canary", Err: secret.Errorf(secret.ReasonAccessDenied, "canary")}}}
		}, "PERMISSION_DENIED", "ACCESS_DENIED"},
		"throttled": {func(context.Context) (*resolve.Result, error) {
			return nil, secret.Errorf(secret.ReasonStoreThrottled, "canary").WithCause(context.Canceled)
		}, "RESOURCE_EXHAUSTED", "STORE_THROTTLED"},
		"panic": {func(context.Context) (*resolve.Result, error) { panic("canary") }, "INTERNAL", "INTERNAL"},
	} {
		ts, collect := startTraced(t)
		ts.resolver.next = tt.next
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "traceparent", sampledParent), 10*time.Second)
		_, err := secretbrokerv1.NewResolverServiceClient(ts.dial(t, ts.ca.Client(string(granted)))).Resolve(ctx, &secretbrokerv1.ResolveRequest{})
		cancel()
		spans := collect()
		if err == nil || len(spans) != 1 || spans[0].Code != tt.code || string(spans[0].Reason) != tt.reason || spans[0].End.Before(spans[0].Start) {
			t.Errorf("%s: %v, %+v", name, err, spans)
		}
	}
}
