// Package otlp tests the broker's traces with OpenTelemetry's own software: the OTLP
// receiver of its Collector receives the spans of internal/tracing/otlp, and its Go API
// parses the same headers as internal/tracing.
package otlp

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/tracing"
	"github.com/secretbroker/secretbroker/internal/tracing/otlp"
	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
)

// startCollector starts the receiver with the settings of a configuration file and returns
// its address. The receiver passes traces to next.
func startCollector(t *testing.T, tls map[string]any, next *sink) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	addr := l.Addr().String()
	must(t, l.Close())
	grpc := map[string]any{"endpoint": addr}
	if tls != nil {
		grpc["tls"] = tls
	}
	factory := otlpreceiver.NewFactory()
	config := factory.CreateDefaultConfig()
	must(t, confmap.NewFromStringMap(map[string]any{"protocols": map[string]any{"grpc": grpc}}).Unmarshal(config))
	receiver, err := factory.CreateTraces(t.Context(), receivertest.NewNopSettings(factory.Type()), config, next)
	must(t, err)
	must(t, receiver.Start(t.Context(), componenttest.NewNopHost()))
	t.Cleanup(func() { must(t, receiver.Shutdown(context.Background())) })
	return addr
}

// sink stores traces, or returns the error of fail.
type sink struct {
	consumertest.TracesSink
	fail error
}

func (s *sink) ConsumeTraces(ctx context.Context, traces ptrace.Traces) error {
	if s.fail != nil {
		return s.fail
	}
	return s.TracesSink.ConsumeTraces(ctx, traces)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newExporter(t *testing.T, c otlp.Config) *otlp.Exporter {
	t.Helper()
	e, err := otlp.New(c)
	must(t, err)
	t.Cleanup(func() { must(t, e.Close()) })
	return e
}

const parentText = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// TestReceiver: the spans of a call arrive unchanged over mutual TLS.
func TestReceiver(t *testing.T) {
	dir := t.TempDir()
	ca := trusttest.NewCA(t, "collectors")
	files := ca.Write(dir)
	client := ca.Client("spiffe://example.org/broker")
	next := &sink{}
	addr := startCollector(t, map[string]any{
		"cert_file": files.Cert, "key_file": files.Key, "client_ca_file": files.ClientCA,
	}, next)
	tracer := tracing.New(tracing.Config{Exporter: newExporter(t, otlp.Config{
		Endpoint: addr, ServiceName: "secretbroker",
		TLS: &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{*client}, MinVersion: tls.VersionTLS12},
	})})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- tracer.Run(ctx) }()
	call := tracer.Begin(parentText, tracing.Span{Start: time.Now(), Method: "/secretbroker.v1.ResolverService/Resolve", RequestID: "r1", Principal: "spiffe://example.org/a"})
	call.Asked("cspi", 1)
	load := call.Load(secret.KindAzureKeyVault, "https://abc.vault.azure.net")
	tracing.ReadDone(load.Begin(t.Context()), secret.Errorf(secret.ReasonStoreUnavailable, "gone"), time.Millisecond)
	load.End("", secret.Errorf(secret.ReasonStoreUnavailable, "gone"))
	call.End("UNAVAILABLE", secret.ReasonStoreUnavailable)
	cancel()
	must(t, <-ended)
	if s := tracer.Stats(); s.Sent != 3 {
		t.Fatalf("%+v", s)
	}
	spans := next.AllTraces()[0].ResourceSpans().At(0).ScopeSpans().At(0).Spans()
	if spans.Len() != 3 {
		t.Fatalf("%d spans", spans.Len())
	}
	served, read, loaded := spans.At(0), spans.At(1), spans.At(2)
	if served.TraceID().String() != parentText[3:35] || served.ParentSpanID().String() != parentText[36:52] || served.Kind() != ptrace.SpanKindServer || served.Status().Code() != ptrace.StatusCodeError {
		t.Errorf("%v %v %v", served.TraceID(), served.ParentSpanID(), served.Kind())
	}
	if loaded.ParentSpanID() != served.SpanID() || read.ParentSpanID() != loaded.SpanID() || read.Kind() != ptrace.SpanKindClient {
		t.Errorf("the spans do not hang together")
	}
	if id, ok := served.Attributes().Get("secretbroker.request_id"); !ok || id.Str() != "r1" {
		t.Errorf("attributes %v", served.Attributes().AsRaw())
	}
}

// TestReceiverFails: the error of the Collector decides whether spans are sent again.
func TestReceiverFails(t *testing.T) {
	next := &sink{}
	e := newExporter(t, otlp.Config{Endpoint: startCollector(t, nil, next)})
	for name, tt := range map[string]struct {
		err   error
		again bool
	}{
		"for now":  {errors.New("the pipeline is full"), true},
		"for good": {consumererror.NewPermanent(errors.New("no")), false},
	} {
		next.fail = tt.err
		_, err := e.Export(t.Context(), []tracing.Span{{Trace: tracing.TraceID{1}, ID: tracing.SpanID{1}, Start: time.Now(), End: time.Now()}})
		if _, again := errors.AsType[*tracing.RetryError](err); err == nil || again != tt.again {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestParent: OpenTelemetry's API and the broker parse headers in the same way, except for
// undefined flags: the W3C recommendation masks them, and the API ignores the header.
func TestParent(t *testing.T) {
	check := func(s string) {
		t.Helper()
		theirs := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(t.Context(), propagation.MapCarrier{"traceparent": s}))
		ours, ok := tracing.ParseParent(s)
		if ok && strings.HasPrefix(s, "00-") && s[53:55] > "03" {
			return
		}
		if ok != theirs.IsValid() {
			t.Errorf("%q: broker %v, OpenTelemetry %v", s, ok, theirs.IsValid())
			return
		}
		if ok && (hex.EncodeToString(ours.Trace[:]) != theirs.TraceID().String() || hex.EncodeToString(ours.ID[:]) != theirs.SpanID().String() || ours.Sampled != theirs.IsSampled()) {
			t.Errorf("%q: broker %+v, OpenTelemetry %+v", s, ours, theirs)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	const alphabet = "0123456789abcdefABCDEF-xg \xff"
	for range 200_000 {
		s := []byte(parentText)
		for range random.IntN(3) {
			s[random.IntN(len(s))] = alphabet[random.IntN(len(alphabet))]
		}
		switch random.IntN(8) {
		case 0:
			s = s[:random.IntN(len(s))]
		case 1:
			s = fmt.Appendf(s, "-%x", random.Uint32())
		}
		check(string(s))
	}
}
