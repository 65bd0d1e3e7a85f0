package tracing

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// Call is the trace of one call. The methods of a nil Call, which is the trace of an untraced
// call, do nothing. It is safe for concurrent use, also during and after End.
type Call struct {
	tracer *Tracer
	trace  TraceID
	id     SpanID // id of the call's span

	mu    sync.Mutex
	ended bool
	spans []Span // the first is the call's span
	lost  uint64 // number of dropped spans
}

// Asked sets the integration of the call, which must be an existing one or "", and the number
// of references in the request.
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

// End ends the trace. Later spans are not part of it. The reason is empty for success.
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
	c.mu.Unlock() // c does not change after End
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

// Loading is a Load in progress. The methods of a nil Loading do nothing.
type Loading struct {
	call *Call
	span Span

	mu  sync.Mutex
	own bool
}

// Load starts a Load; store is one of the integration's stores. It returns nil for a nil
// Call.
func (c *Call) Load(kind secret.Kind, store string) *Loading {
	if c == nil {
		return nil
	}
	return &Loading{call: c, span: Span{
		ID: newSpanID(), Parent: c.id, Step: Load, Start: time.Now(),
		Kind: kind, Store: strings.Clone(store), // store may share the request's memory
	}}
}

type loadingKey struct{}

// Begin records that the call itself reads the secret, and returns the context for that: a
// ReadDone with that context, or one derived from it, belongs to this Load. The read may
// continue after the Load and the call have ended; that part is not reported.
func (l *Loading) Begin(ctx context.Context) context.Context {
	if l == nil {
		return ctx
	}
	l.mu.Lock()
	l.own = true
	l.mu.Unlock()
	return context.WithValue(ctx, loadingKey{}, l)
}

// End ends the Load with the source of its answer, or with an error.
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

// ReadDone reports an exchange with a store that has just ended after the given time, with an
// error or nil. It does nothing if ctx belongs to no Load.
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
