package tracing

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// Call is the trace of one call. A nil Call is that of a call which is not traced:
// all it does is nothing. It is safe for concurrent use, until End and after.
type Call struct {
	tracer *Tracer
	trace  TraceID
	id     SpanID // of the call's own span

	mu    sync.Mutex
	ended bool
	spans []Span // the first is the call's own
	lost  uint64 // spans for which there was no room
}

// Asked tells which integration the call is about, which must be one that exists or
// "", and for how many references it asks.
func (c *Call) Asked(integration string, references int) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if own := &c.spans[0]; !c.ended {
		own.Integration, own.References = integration, references
	}
}

// End ends the trace: what comes later is no part of it. The reason is empty for
// success.
func (c *Call) End(code string, reason secret.Reason) {
	if c == nil {
		return
	}
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return
	}
	c.ended = true
	own := &c.spans[0]
	own.Code, own.Reason, own.End = code, reason, time.Now()
	c.mu.Unlock() // it does not change any more
	c.tracer.overflown.Add(c.lost)
	c.tracer.enqueue(c)
}

// add adds a span to a call that has not ended.
func (c *Call) add(s Span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ended:
	case len(c.spans) == maxSpans:
		c.lost++
	default:
		s.Trace = c.trace
		c.spans = append(c.spans, s)
	}
}

// Loading is a Load under way. A nil one does nothing.
type Loading struct {
	call *Call
	span Span

	mu  sync.Mutex
	own bool
}

// Load begins a Load; the store is one of the integration's. It returns nil for a
// nil Call.
func (c *Call) Load(kind secret.Kind, store string) *Loading {
	if c == nil {
		return nil
	}
	return &Loading{call: c, span: Span{
		ID: newSpanID(), Parent: c.id, Step: Load, Start: time.Now(),
		Kind: kind, Store: strings.Clone(store), // which may be a part of the request
	}}
}

type loadingKey struct{}

// Begin says that the call itself has the secret read, and returns ctx for that: a
// ReadDone with it, or with a context made of it, is about this Load. The reading
// may go on after the Load and the call have ended; that part is not reported.
func (l *Loading) Begin(ctx context.Context) context.Context {
	if l == nil {
		return ctx
	}
	l.mu.Lock()
	l.own = true
	l.mu.Unlock()
	return context.WithValue(ctx, loadingKey{}, l)
}

// End ends the Load with its answer's source, or with an error.
func (l *Loading) End(source string, err error) {
	if l == nil {
		return
	}
	s := l.span
	s.End = time.Now()
	l.mu.Lock()
	s.Own = l.own
	l.mu.Unlock()
	if err != nil {
		s.Reason = secret.AsError(err).Reason
	} else {
		s.Source = source
	}
	l.call.add(s)
}

// ReadDone tells of one exchange with a store, which took so long and has just
// ended, nil or an error having come of it. It does nothing unless ctx is of a Load.
func ReadDone(ctx context.Context, err error, took time.Duration) {
	l, ok := ctx.Value(loadingKey{}).(*Loading)
	if !ok {
		return
	}
	now := time.Now()
	s := Span{
		ID: newSpanID(), Parent: l.span.ID, Step: Read, Start: now.Add(-took), End: now,
		Kind: l.span.Kind, Store: l.span.Store,
	}
	if err != nil {
		s.Reason = secret.AsError(err).Reason
	}
	l.call.add(s)
}
