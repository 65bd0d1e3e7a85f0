package server

import (
	"context"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/tracing"
)

// trace starts the trace of an admitted call if its caller requests one, and returns nil
// otherwise. A call without a trace costs only the lookup of one header.
func (g *guarded) trace(ctx context.Context, c *call, start time.Time) *tracing.Call {
	if g.ic.tracer == nil || g.rule == anyPeer { // peers without an identity are not traced
		return nil
	}
	parents := metadata.ValueFromIncomingContext(ctx, "traceparent")
	if len(parents) != 1 {
		return nil
	}
	return g.ic.tracer.Begin(parents[0], tracing.Span{Start: start, Method: g.name, RequestID: c.requestID, Principal: string(c.who.Principal)})
}

// endTrace ends a trace with the outcome of the call. It leaves out the texts of an error,
// which are for its caller.
func endTrace(trace *tracing.Call, err error) {
	if trace == nil {
		return
	}
	st := status.Convert(err)
	var reason secret.Reason
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			reason = secret.Reason(info.GetReason())
		}
	}
	trace.End(codeName(st.Code()), reason)
}

// codeName returns the name of a gRPC status code in the specification, as
// PERMISSION_DENIED. Traces and metrics use it, not the spelling of package codes.
func codeName(code codes.Code) string {
	if int(code) < len(codeNames) {
		return codeNames[code]
	}
	return "UNKNOWN"
}

// codeNames are the names of gRPC's status codes, by code.
var codeNames = [...]string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
	"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}
