package tracing

import (
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// Step is what a span is about.
type Step uint8

// The steps of a call.
const (
	// Serve is the call as a whole.
	Serve Step = iota
	// Load is the call's wait for one secret that was not in memory.
	Load
	// Read is one exchange with the secret's store within a Load of the call's own.
	Read
)

// Span is all that a trace contains about one step of a call. Its texts are the broker's own
// words or the operator's, but for the trace's and the parent's numbers: what else a
// caller writes does not come here.
type Span struct {
	Trace  TraceID
	ID     SpanID
	Parent SpanID
	Step   Step
	// Start and End have the monotonic clock's reading.
	Start, End time.Time
	// Reason is why the step failed, empty if it did not.
	Reason secret.Reason

	// Of Serve: the method, /SERVICE/METHOD; the request id, by which the audit has
	// the call; the verified principal; gRPC's code in upper case; and, where a
	// reference was resolved or checked, the integration, empty if there is none
	// such, and how many references there were.
	Method, RequestID, Principal, Code, Integration string
	References                                      int

	// Of Load and Read: the kind of the store and its name as the integration lists
	// it, without the secret's.
	Kind  secret.Kind
	Store string
	// Of Load: whether the call began the reading itself, rather than having joined
	// another's or been told of an earlier failure; and where the answer came from,
	// empty if there is none: hit, miss, shared or stale.
	Own    bool
	Source string
}
