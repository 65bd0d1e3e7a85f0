// Package otlptest is a collector for tests: a gRPC server with OTLP's TraceService, in the
// project's own messages, that stores the spans it gets. tools/peers/otlp tests with the
// receiver of OpenTelemetry's Collector, whose dependencies the broker's module should not
// have.
package otlptest

import (
	"context"
	"net"
	"sync"
	"testing"

	collectorpb "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"
)

// Collector accepts traces. It is safe for concurrent use.
type Collector struct {
	// Addr is host:port.
	Addr string

	mu       sync.Mutex
	do       func(ctx context.Context) (rejected int64, err error)
	requests []*collectorpb.ExportTraceServiceRequest
	spans    []*tracepb.Span
	arrived  chan struct{} // closed and replaced with each request
}

// Start starts a Collector that ends with the test. It uses plaintext if creds is nil.
func Start(t testing.TB, creds credentials.TransportCredentials) *Collector {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &Collector{Addr: l.Addr().String(), arrived: make(chan struct{})}
	var opts []grpc.ServerOption
	if creds != nil {
		opts = append(opts, grpc.Creds(creds))
	}
	s := grpc.NewServer(opts...)
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "opentelemetry.proto.collector.trace.v1.TraceService",
		Methods:     []grpc.MethodDesc{{MethodName: "Export", Handler: c.export}},
	}, nil)
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(l) }) // until Stop
	t.Cleanup(func() {
		s.Stop()
		serving.Wait()
	})
	return c
}

// Answer sets the function that answers future requests. The Collector stores the spans of
// requests that neither are rejected nor fail. If do is nil, it accepts all requests.
func (c *Collector) Answer(do func(ctx context.Context) (rejected int64, err error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.do = do
}

func (c *Collector) export(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) { //nolint:revive // gRPC wants ctx second
	req := &collectorpb.ExportTraceServiceRequest{}
	if err := decode(req); err != nil {
		return nil, err
	}
	c.mu.Lock()
	do := c.do
	c.mu.Unlock()
	out := &collectorpb.ExportTraceServiceResponse{}
	if do != nil {
		rejected, err := do(ctx)
		if err != nil {
			return nil, err
		}
		if rejected > 0 {
			out.PartialSuccess = &collectorpb.ExportTracePartialSuccess{RejectedSpans: rejected, ErrorMessage: "as the test wants it"}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests = append(c.requests, req)
	for _, r := range req.GetResourceSpans() {
		for _, s := range r.GetScopeSpans() {
			c.spans = append(c.spans, s.GetSpans()...)
		}
	}
	close(c.arrived)
	c.arrived = make(chan struct{})
	return out, nil
}

// Requests returns the accepted requests.
func (c *Collector) Requests() []*collectorpb.ExportTraceServiceRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*collectorpb.ExportTraceServiceRequest(nil), c.requests...)
}

// Text returns all accepted requests in encoded form, for tests that search it for texts that
// must not be there.
func (c *Collector) Text(t testing.TB) string {
	t.Helper()
	var all []byte
	for _, r := range c.Requests() {
		data, err := proto.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data...)
	}
	return string(all)
}

// Wait waits until the Collector has at least n spans or ctx ends, and returns its spans.
func (c *Collector) Wait(ctx context.Context, n int) []*tracepb.Span {
	for {
		c.mu.Lock()
		spans, arrived := append([]*tracepb.Span(nil), c.spans...), c.arrived
		c.mu.Unlock()
		if len(spans) >= n {
			return spans
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			return spans
		}
	}
}
