package otlp

import (
	"strings"

	collectorpb "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/slim/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/slim/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/slim/otlp/trace/v1"

	"github.com/secretbroker/secretbroker/internal/tracing"
)

// schema is the version of OpenTelemetry's semantic conventions that defines the names
// without "secretbroker.".
const schema = "https://opentelemetry.io/schemas/1.43.0"

// resource identifies the sender.
type resource struct {
	of    *resourcepb.Resource
	scope *commonpb.InstrumentationScope
}

func resourceOf(c Config) resource {
	return resource{
		of: &resourcepb.Resource{Attributes: attributes(
			text("service.name", c.ServiceName), text("service.version", c.ServiceVersion), text("host.name", c.HostName),
		)},
		scope: &commonpb.InstrumentationScope{Name: "secretbroker", Version: c.ServiceVersion},
	}
}

// request returns the request that contains the spans.
func (r resource) request(spans []tracing.Span) *collectorpb.ExportTraceServiceRequest {
	all := make([]*tracepb.Span, len(spans))
	for i := range spans {
		all[i] = spanOf(&spans[i])
	}
	return &collectorpb.ExportTraceServiceRequest{ResourceSpans: []*tracepb.ResourceSpans{{
		Resource: r.of, SchemaUrl: schema,
		ScopeSpans: []*tracepb.ScopeSpans{{Scope: r.scope, SchemaUrl: schema, Spans: all}},
	}}}
}

// spanOf converts a span. It defines the attributes of each step.
func spanOf(s *tracing.Span) *tracepb.Span {
	start := s.Start.UnixNano()
	out := &tracepb.Span{
		TraceId: s.Trace[:], SpanId: s.ID[:], ParentSpanId: s.Parent[:],
		StartTimeUnixNano: uint64(start),
		EndTimeUnixNano:   uint64(start + int64(s.End.Sub(s.Start))), //nolint:gosec // not negative: by the monotonic clock, End is after Start
		Flags:             uint32(tracepb.SpanFlags_SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK) | sampled,
		Status:            &tracepb.Status{},
	}
	failed := s.Reason != ""
	switch s.Step {
	case tracing.Serve:
		method := strings.TrimPrefix(s.Method, "/")
		out.Name, out.Kind = method, tracepb.Span_SPAN_KIND_SERVER
		out.Flags |= uint32(tracepb.SpanFlags_SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK)
		out.Attributes = attributes(
			text("rpc.system.name", "grpc"), text("rpc.method", method), text("rpc.response.status_code", s.Code),
			text("secretbroker.request_id", s.RequestID), text("secretbroker.principal", s.Principal),
			text("secretbroker.integration_id", s.Integration), number("secretbroker.references", s.References),
		)
		failed = serverErrors[s.Code]
	case tracing.Load:
		out.Name, out.Kind = "load secret", tracepb.Span_SPAN_KIND_INTERNAL
		out.Attributes = attributes(
			text("secretbroker.store.kind", string(s.Kind)), text("secretbroker.store.name", s.Store),
			text("secretbroker.load.source", s.Source), boolean("secretbroker.load.own", s.Own),
		)
	case tracing.Read:
		out.Name, out.Kind = "read store", tracepb.Span_SPAN_KIND_CLIENT
		out.Attributes = attributes(text("secretbroker.store.kind", string(s.Kind)), text("secretbroker.store.name", s.Store))
	}
	if s.Reason != "" {
		out.Attributes = append(out.Attributes, text("error.type", string(s.Reason)))
	}
	if failed {
		out.Status.Code = tracepb.Status_STATUS_CODE_ERROR
	}
	return out
}

// sampled is the trace flag of W3C Trace Context, in a span's low bits.
const sampled = 1

// serverErrors are the codes that the semantic conventions consider errors of the server and
// not of its caller.
var serverErrors = map[string]bool{
	"UNKNOWN": true, "DEADLINE_EXCEEDED": true, "UNIMPLEMENTED": true, "INTERNAL": true, "UNAVAILABLE": true, "DATA_LOSS": true,
}

// attributes omits nil attributes.
func attributes(all ...*commonpb.KeyValue) []*commonpb.KeyValue {
	kept := all[:0]
	for _, kv := range all {
		if kv != nil {
			kept = append(kept, kv)
		}
	}
	return kept
}

// text returns an attribute, nil if value is empty. It makes value valid UTF-8, without which
// the whole request could not be encoded.
func text(key, value string) *commonpb.KeyValue {
	if value == "" {
		return nil
	}
	return &commonpb.KeyValue{Key: key, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: strings.ToValidUTF8(value, "\uFFFD")}}}
}

// number returns an attribute, nil if value is zero.
func number(key string, value int) *commonpb.KeyValue {
	if value == 0 {
		return nil
	}
	return &commonpb.KeyValue{Key: key, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_IntValue{IntValue: int64(value)}}}
}

func boolean(key string, value bool) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: key, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_BoolValue{BoolValue: value}}}
}
