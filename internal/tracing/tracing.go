// Package tracing owns the traces of calls whose callers asked for one: what may
// stand in a trace, how many are made, and their way to an Exporter, which never
// slows or fails a call.
//
// What may be told of a call is a Span's fields and nothing else: there is no way
// to add a text of one's choice. None is a secret's value or its name. The package
// knows no gRPC and no format of traces; tracing/otlp does.
package tracing

import (
	"context"
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// The bounds of what waits for the exporter.
const (
	// maxQueued is how many spans are kept, some 300 bytes each; further ones are
	// dropped.
	maxQueued = 8192
	// maxSpans is how many spans one call may have: a load and a read or two of as
	// many secrets as a request may name by default.
	maxSpans = 256
	// maxBatch is with how many spans a batch is complete.
	maxBatch = 512
)

// Exporter sends spans on.
type Exporter interface {
	// Export sends spans, and keeps nothing of them. It returns how many of them
	// the collector did not take, or an error if it took none; a *RetryError if the
	// same spans may be sent again.
	Export(ctx context.Context, spans []Span) (rejected int, err error)
}

// RetryError is that of an Export that may succeed later.
type RetryError struct {
	Err error
	// After is how long the collector asks to be left alone, zero if it does not say.
	After time.Duration
}

func (e *RetryError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *RetryError) Unwrap() error { return e.Err }

// Config is what a Tracer is made of. Only Exporter is required.
type Config struct {
	Exporter Exporter
	// MaxCallsPerSecond is how many calls a second are traced, of all callers
	// together: 100.
	MaxCallsPerSecond int
	// Logger gets, at most once a minute, the number of spans that were lost; nil discards.
	Logger *slog.Logger
}

// Tracer makes the traces of calls and brings them to its Exporter, as long as it
// runs. It is safe for concurrent use.
type Tracer struct {
	exporter Exporter
	log      *slog.Logger
	pace     *rate.Limiter

	queue  chan *Call   // of ended calls
	queued atomic.Int64 // spans in the queue and in the batch under way

	calls, overLimit, sent      atomic.Uint64
	overflown, unsent, rejected atomic.Uint64

	// Of Run alone: when it last complained, and what it had to complain of then.
	complained time.Time
	told       uint64
}

// New makes a Tracer, which Run runs.
func New(c Config) *Tracer {
	if c.MaxCallsPerSecond <= 0 {
		c.MaxCallsPerSecond = 100
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Tracer{
		exporter: c.Exporter, log: c.Logger,
		pace: rate.NewLimiter(rate.Limit(c.MaxCallsPerSecond), c.MaxCallsPerSecond),
		// A call has one span at least, so the spans' bound is always the nearer one.
		queue: make(chan *Call, maxQueued),
	}
}

// Stats are counts since New, but for Queued, which is as of now.
type Stats struct {
	// Calls were traced; OverLimit were not, though their callers asked for it,
	// because there were too many.
	Calls, OverLimit uint64
	// Sent are the spans that the collector took.
	Sent uint64
	// Overflown are the spans for which there was no room, Unsent those that the
	// collector could not be given in time, Rejected those that it did not want.
	Overflown, Unsent, Rejected uint64
	// Queued are the spans that wait to be sent.
	Queued int64
}

// Stats returns the counts, read one by one.
func (t *Tracer) Stats() Stats {
	return Stats{
		Calls: t.calls.Load(), OverLimit: t.overLimit.Load(), Sent: t.sent.Load(),
		Overflown: t.overflown.Load(), Unsent: t.unsent.Load(), Rejected: t.rejected.Load(),
		Queued: t.queued.Load(),
	}
}

// Begin begins the trace of a call that arrived with that traceparent, own telling
// its Start, Method, RequestID and Principal. It returns nil, which is as good as a
// Call, if the caller asks for no trace or there are too many.
func (t *Tracer) Begin(traceparent string, own Span) *Call {
	parent, ok := ParseParent(traceparent)
	if !ok || !parent.Sampled {
		return nil
	}
	if !t.pace.AllowN(own.Start, 1) {
		t.overLimit.Add(1)
		return nil
	}
	t.calls.Add(1)
	own.Trace, own.ID, own.Parent, own.Step = parent.Trace, newSpanID(), parent.ID, Serve
	c := &Call{tracer: t, trace: own.Trace, id: own.ID, spans: make([]Span, 1, 4)}
	c.spans[0] = own
	return c
}

// enqueue takes over an ended call.
func (t *Tracer) enqueue(c *Call) {
	n := int64(len(c.spans))
	if t.queued.Add(n) > maxQueued {
		t.queued.Add(-n)
		t.overflown.Add(uint64(n))
		return
	}
	t.queue <- c // which has room for more calls than there may be spans
}

// newSpanID returns 64 random bits, not all of them zero. They name a span and
// authorize nothing.
func newSpanID() (id SpanID) {
	for id == (SpanID{}) {
		binary.LittleEndian.PutUint64(id[:], rand.Uint64()) //nolint:gosec // see above
	}
	return id
}
