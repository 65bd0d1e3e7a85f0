package server

import (
	"bytes"
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/secretbroker/secretbroker/internal/admission"
	"github.com/secretbroker/secretbroker/internal/budget"
	"github.com/secretbroker/secretbroker/internal/tracing"
)

// drain is a tracing.Exporter that discards spans.
type drain struct{}

func (drain) Export(context.Context, []tracing.Span) (int, error) { return 0, nil }

// BenchmarkTraffic measures the accounting of a call's frames: two received, three sent.
func BenchmarkTraffic(b *testing.B) {
	var in, out bytes.Buffer
	request, answer := http2.NewFramer(&in, nil), http2.NewFramer(&out, nil)
	account := budget.New(1 << 30).Account("a")
	t := &traffic{account: account}
	b.ReportAllocs()
	for id := uint32(1); b.Loop(); id += 2 {
		in.Reset()
		out.Reset()
		_ = request.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: make([]byte, 20), EndHeaders: true})
		_ = request.WriteData(id, true, make([]byte, 200))
		_ = answer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: make([]byte, 20), EndHeaders: true})
		_ = answer.WriteData(id, false, make([]byte, 300))
		_ = answer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: make([]byte, 20), EndHeaders: true, EndStream: true})
		if err := t.received(in.Bytes(), time.Now()); err != nil {
			b.Fatal(err)
		}
		t.writes(out.Bytes())
		t.written()
	}
	if account.Open.Load() != 0 {
		b.Errorf("%d calls are open", account.Open.Load())
	}
}

// BenchmarkHandle measures the interceptor chain around a call: with and without tracing,
// and for a traced call. The spans are exported during the benchmark.
func BenchmarkHandle(b *testing.B) {
	const unsampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
	for _, bb := range []struct {
		name, traceparent string
		traced            bool
	}{
		{"off", "", false},
		{"on, not asked for", "", true},
		{"on, unsampled", unsampled, true},
		{"on, sampled", sampledParent, true},
	} {
		b.Run(bb.name, func(b *testing.B) {
			ic := &interceptor{
				log: slog.New(slog.DiscardHandler), metrics: newCallMetrics(prometheus.NewRegistry()), rules: rules,
				calls: &limiter{Limiter: admission.New(admission.Limits{PerSecond: 1 << 30})}, refusals: newRefusalLog(),
			}
			if bb.traced {
				ic.tracer = tracing.New(tracing.Config{Exporter: drain{}, MaxCallsPerSecond: 1 << 30})
				ctx, cancel := context.WithCancel(b.Context())
				ended := make(chan error)
				go func() { ended <- ic.tracer.Run(ctx) }()
				defer func() { cancel(); <-ended }()
			}
			desc := ic.guard(grpc.ServiceDesc{ServiceName: "secretbroker.v1.ResolverService", Methods: []grpc.MethodDesc{{
				MethodName: "Resolve",
				Handler:    func(any, context.Context, func(any) error, grpc.UnaryServerInterceptor) (any, error) { return nil, nil },
			}}})
			// The headers of a gRPC client, as gRPC's transport stores them.
			headers := metadata.Pairs(":authority", "broker.example.org:8443", "content-type", "application/grpc", "user-agent", "grpc-java-netty/1.80.0", "grpc-accept-encoding", "gzip")
			if bb.traceparent != "" {
				headers.Set("traceparent", bb.traceparent)
			}
			ctx := metadata.NewIncomingContext(context.Background(), headers)
			ctx = peer.NewContext(ctx, &peer.Peer{AuthInfo: peerIdentity{principal: granted, notAfter: time.Now().Add(time.Hour)}})
			ctx = grpc.NewContextWithServerTransportStream(ctx, nil)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := desc.Methods[0].Handler(nil, ctx, nil, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
