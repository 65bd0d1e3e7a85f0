package tracing

import (
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// Step is the kind of a span.
type Step uint8

// The steps of a call.
const (
	// Serve is the call as a whole.
	Serve Step = iota
	// Load is the call's wait for one secret that was not cached.
	Load
	// Read is one exchange with a secret's store, during a Load in which the call reads.
	Read
)

// Span is the complete content of a trace about one step of a call. Its texts come from the
// broker or the operator. From the caller come only the ids of the trace and of the parent: no
// other text of a caller gets into a trace.
type Span struct {
	Trace  TraceID
	ID     SpanID
	Parent SpanID
	Step   Step
	// Start and End include the monotonic clock's reading.
	Start, End time.Time
	// Reason is the reason why the step failed, empty if it succeeded.
	Reason secret.Reason

	// For Serve: the method, /SERVICE/METHOD; the request id, which the audit log
	// contains; the verified principal; gRPC's code in upper case; and, if references were
	// resolved or checked, the integration, empty if it does not exist, and the number of
	// references.
	Method, RequestID, Principal, Code, Integration string
	References                                      int

	// For Load and Read: the kind of the store and its name in the integration, without
	// the secret's name.
	Kind  secret.Kind
	Store string
	// For Load: Own reports whether the call started the read itself, instead of joining
	// another call's read or getting a cached failure. Source is the source of the answer,
	// empty if there is none: hit, miss, shared or stale.
	Own    bool
	Source string
}
