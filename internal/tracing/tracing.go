// Package tracing records traces of calls whose callers request them, and passes them to an
// Exporter. Tracing never delays or fails a call.
//
// A trace contains only the fields of Span: there is no way to add other texts. None of them
// is a secret's value or name. The package knows neither gRPC nor a format of traces; package
// otlp does.
//
// A call begins with Tracer.Begin, collects its spans in memory, and puts them into a queue
// when it ends. Tracer.Run takes them from the queue and exports them in batches. If the queue
// is full, spans are dropped and counted.
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

// The limits of the queue.
const (
	// maxQueued is the maximum number of queued spans, about 300 bytes each; further ones
	// are dropped.
	maxQueued = 8192
	// maxSpans is the maximum number of spans of one call: a load and one or two reads for
	// each of the secrets that a request may have by default.
	maxSpans = 256
	// maxBatch is the number of spans at which a batch is full.
	maxBatch = 512
)

// Exporter sends spans to a collector.
type Exporter interface {
	// Export sends spans and does not retain them. It returns the number of spans that the
	// collector rejected, or an error if the collector accepted none; a *RetryError if the
	// spans may be sent again.
	Export(ctx context.Context, spans []Span) (rejected int, err error)
}

// RetryError is the error of an Export that may be retried.
type RetryError struct {
	Err error
	// After is the delay that the collector requests, zero if it requests none.
	After time.Duration
}

func (e *RetryError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *RetryError) Unwrap() error { return e.Err }

// Config configures a Tracer. Only Exporter is required.
type Config struct {
	Exporter Exporter
	// MaxCallsPerSecond is the maximum number of traced calls per second, of all callers
	// together: 100 by default.
	MaxCallsPerSecond int
	// Logger logs the number of lost spans, at most once a minute; nil discards.
	Logger *slog.Logger
}

// Tracer records the traces of calls and exports them while Run runs. It is safe for
// concurrent use.
type Tracer struct {
	exporter Exporter
	log      *slog.Logger
	pace     *rate.Limiter

	queue  chan *Call   // ended calls
	queued atomic.Int64 // spans in the queue and in the current batch

	calls, overLimit, sent      atomic.Uint64
	overflown, unsent, rejected atomic.Uint64

	// Used by Run only: the time of the last log line, and the losses that it reported.
	complained time.Time
	told       uint64
}

// New returns a Tracer. The caller runs it with Run.
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
		// A call has at least one span, so the limit of spans is always reached first.
		queue: make(chan *Call, maxQueued),
	}
}

// Stats are counts since New, except Queued, which is the current number.
type Stats struct {
	// Calls is the number of traced calls, OverLimit of those whose trace was requested but
	// exceeded MaxCallsPerSecond.
	Calls, OverLimit uint64
	// Sent is the number of spans that the collector accepted.
	Sent uint64
	// Overflown is the number of spans dropped because the queue was full, Unsent of those
	// that could not be sent in time, Rejected of those that the collector rejected.
	Overflown, Unsent, Rejected uint64
	// Queued is the number of spans that wait to be sent.
	Queued int64
}

// Stats returns the counts. They are read one by one and may be slightly inconsistent.
func (t *Tracer) Stats() Stats {
	return Stats{
		Calls: t.calls.Load(), OverLimit: t.overLimit.Load(), Sent: t.sent.Load(),
		Overflown: t.overflown.Load(), Unsent: t.unsent.Load(), Rejected: t.rejected.Load(),
		Queued: t.queued.Load(),
	}
}

// Begin starts the trace of a call with the given traceparent; own has the Start, Method,
// RequestID and Principal. It returns nil, which is a valid Call, if the caller does not
// request a trace or if there are too many.
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

// enqueue queues an ended call.
func (t *Tracer) enqueue(c *Call) {
	n := int64(len(c.spans))
	if t.queued.Add(n) > maxQueued {
		t.queued.Add(-n)
		t.overflown.Add(uint64(n))
		return
	}
	t.queue <- c // never blocks: the queue has room for maxQueued calls
}

// newSpanID returns 64 random bits that are not all zero. They identify a span and authorize
// nothing.
func newSpanID() (id SpanID) {
	for id == (SpanID{}) {
		binary.LittleEndian.PutUint64(id[:], rand.Uint64()) //nolint:gosec // see above
	}
	return id
}
