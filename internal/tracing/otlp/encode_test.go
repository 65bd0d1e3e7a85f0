package otlp

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	tracepb "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/tracing"
	"github.com/secretbroker/secretbroker/internal/tracing/otlp/otlptest"
)

// told is a span in readable form.
type told struct {
	Name, Kind, Status string
	Flags              uint32
	Took               time.Duration
	Attributes         map[string]any
}

func tell(s *tracepb.Span) told {
	t := told{
		Name: s.GetName(), Kind: s.GetKind().String(), Status: s.GetStatus().GetCode().String(), Flags: s.GetFlags(),
		Took: time.Duration(s.GetEndTimeUnixNano() - s.GetStartTimeUnixNano()), Attributes: make(map[string]any),
	}
	for _, kv := range s.GetAttributes() {
		switch v := kv.GetValue(); {
		case v.GetIntValue() != 0:
			t.Attributes[kv.GetKey()] = v.GetIntValue()
		case v.GetStringValue() != "":
			t.Attributes[kv.GetKey()] = v.GetStringValue()
		default:
			t.Attributes[kv.GetKey()] = v.GetBoolValue()
		}
	}
	return t
}

func TestSpans(t *testing.T) {
	collector := otlptest.Start(t, nil)
	e := newExporter(t, Config{Endpoint: collector.Addr, ServiceName: "broker-eu", ServiceVersion: "v1", HostName: "h"})
	at := time.Unix(1_800_000_000, 5)
	trace, root, load := tracing.TraceID{1, 2, 3}, tracing.SpanID{4}, tracing.SpanID{5}
	const store = "https://abc.vault.azure.net"
	if _, err := e.Export(t.Context(), []tracing.Span{
		{
			Trace: trace, ID: root, Parent: tracing.SpanID{9}, Step: tracing.Serve, Start: at, End: at.Add(time.Second),
			Method: "/secretbroker.v1.ResolverService/Resolve", RequestID: "4bf9", Principal: "spiffe://example.org/a\xff", Code: "OK", Integration: "cspi", References: 2,
		},
		{Trace: trace, ID: load, Parent: root, Step: tracing.Load, Start: at, End: at.Add(time.Millisecond), Kind: secret.KindAzureKeyVault, Store: store, Own: true, Source: "miss"},
		{Trace: trace, ID: tracing.SpanID{6}, Parent: load, Step: tracing.Read, Start: at, End: at, Kind: secret.KindAzureKeyVault, Store: store, Reason: secret.ReasonStoreThrottled},
		{Trace: trace, ID: tracing.SpanID{7}, Parent: root, Step: tracing.Load, Start: at, End: at, Kind: secret.KindLocalFile, Store: "env", Reason: secret.ReasonSecretNotFound},
		{Trace: trace, ID: tracing.SpanID{8}, Step: tracing.Serve, Start: at, End: at, Method: "/s/m", Code: "PERMISSION_DENIED", Reason: secret.ReasonAccessDenied},
		{Trace: trace, ID: tracing.SpanID{9}, Step: tracing.Serve, Start: at, End: at, Method: "/s/m", Code: "UNAVAILABLE", Reason: secret.ReasonAuditUnavailable},
	}); err != nil {
		t.Fatal(err)
	}
	const method = "secretbroker.v1.ResolverService/Resolve"
	azure := map[string]any{"secretbroker.store.kind": "AZURE_KEY_VAULT", "secretbroker.store.name": store}
	with := func(base map[string]any, more map[string]any) map[string]any {
		all := map[string]any{}
		for _, m := range []map[string]any{base, more} {
			for k, v := range m {
				all[k] = v
			}
		}
		return all
	}
	want := []told{
		{"secretbroker.v1.ResolverService/Resolve", "SPAN_KIND_SERVER", "STATUS_CODE_UNSET", 0x301, time.Second, map[string]any{
			"rpc.system.name": "grpc", "rpc.method": method, "rpc.response.status_code": "OK",
			"secretbroker.request_id": "4bf9", "secretbroker.principal": "spiffe://example.org/a\uFFFD", "secretbroker.integration_id": "cspi", "secretbroker.references": int64(2),
		}},
		{"load secret", "SPAN_KIND_INTERNAL", "STATUS_CODE_UNSET", 0x101, time.Millisecond, with(azure, map[string]any{"secretbroker.load.own": true, "secretbroker.load.source": "miss"})},
		{"read store", "SPAN_KIND_CLIENT", "STATUS_CODE_ERROR", 0x101, 0, with(azure, map[string]any{"error.type": "STORE_THROTTLED"})},
		{"load secret", "SPAN_KIND_INTERNAL", "STATUS_CODE_ERROR", 0x101, 0, map[string]any{
			"secretbroker.store.kind": "LOCAL_FILE", "secretbroker.store.name": "env", "secretbroker.load.own": false, "error.type": "SECRET_NOT_FOUND",
		}},
		{"s/m", "SPAN_KIND_SERVER", "STATUS_CODE_UNSET", 0x301, 0, map[string]any{ // an error of the caller
			"rpc.system.name": "grpc", "rpc.method": "s/m", "rpc.response.status_code": "PERMISSION_DENIED", "error.type": "ACCESS_DENIED",
		}},
		{"s/m", "SPAN_KIND_SERVER", "STATUS_CODE_ERROR", 0x301, 0, map[string]any{
			"rpc.system.name": "grpc", "rpc.method": "s/m", "rpc.response.status_code": "UNAVAILABLE", "error.type": "AUDIT_UNAVAILABLE",
		}},
	}
	req := collector.Requests()[0]
	spans := collector.Wait(t.Context(), 6)
	var got []told
	for _, s := range spans {
		got = append(got, tell(s))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if s := spans[1]; [16]byte(s.GetTraceId()) != trace || [8]byte(s.GetSpanId()) != load || [8]byte(s.GetParentSpanId()) != root || s.GetStartTimeUnixNano() != uint64(at.UnixNano()) {
		t.Errorf("%v", s)
	}
	resource := req.GetResourceSpans()[0].GetResource()
	const who = `{"attributes":[{"key":"service.name","value":{"stringValue":"broker-eu"}},{"key":"service.version","value":{"stringValue":"v1"}},{"key":"host.name","value":{"stringValue":"h"}}]}`
	wanted := proto.Clone(resource)
	proto.Reset(wanted)
	if err := protojson.Unmarshal([]byte(who), wanted); err != nil || !proto.Equal(wanted, resource) {
		t.Errorf("the sender is %v, %v", resource, err)
	}
	if scope := req.GetResourceSpans()[0].GetScopeSpans()[0].GetScope(); scope.GetName() != "secretbroker" || scope.GetVersion() != "v1" {
		t.Errorf("the scope is %v", scope)
	}
}

// BenchmarkEncode measures the encoding of a call's span.
func BenchmarkEncode(b *testing.B) {
	spans := make([]tracing.Span, 512)
	for i := range spans {
		spans[i] = tracing.Span{
			Trace: tracing.TraceID{1}, ID: tracing.SpanID{2}, Parent: tracing.SpanID{3}, Step: tracing.Serve, Start: time.Now(), End: time.Now(),
			Method: "/secretbroker.v1.ResolverService/Resolve", RequestID: "4bf92f3577b34da6a3ce929d0e0e4736", Principal: "spiffe://example.org/connect/worker-1", Code: "OK", Integration: "cspi", References: 2,
		}
	}
	r := resourceOf(Config{ServiceName: "secretbroker"})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := proto.Marshal(r.request(spans)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(spans)), "ns/span")
}
