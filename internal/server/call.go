package server

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/tracing"
)

const (
	// maxCallTime limits calls whose client set no deadline or a later one.
	maxCallTime = 30 * time.Second
	// replyTime is how long before the caller's deadline the broker ends the call, so
	// that the error that caused the delay still reaches the caller.
	replyTime = 20 * time.Millisecond
)

// call is what the interceptors know about a call. The handlers read it.
type call struct {
	requestID string
	who       resolve.Caller
	trace     *tracing.Call // nil if the call is not traced
}

type callKey struct{}

func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

// callContext is the context of one call. It ends shortly before the caller's deadline.
//
// It starts its timer only when something waits for the context. A call that is answered
// from the cache never waits, and a timer costs more than the cache lookup.
type callContext struct {
	context.Context // of the stream
	call            call
	memory          callMemory
	turn            callTurn
	deadline        time.Time

	mu     sync.Mutex
	timed  context.Context // nil until wait is called
	cancel context.CancelFunc
}

// newCallContext returns the context of a call that began at now. The caller ends it with
// end.
func newCallContext(ctx context.Context, c call, now time.Time) *callContext {
	deadline := now.Add(maxCallTime)
	if d, ok := ctx.Deadline(); ok && d.Add(-replyTime).Before(deadline) {
		deadline = d.Add(-replyTime)
	}
	return &callContext{Context: ctx, call: c, deadline: deadline}
}

// wait returns the context with its timer running.
func (c *callContext) wait() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timed == nil {
		c.timed, c.cancel = context.WithDeadline(c.Context, c.deadline)
	}
	return c.timed
}

// end stops the timer, if it runs.
func (c *callContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel != nil {
		c.cancel()
	}
}

func (c *callContext) Deadline() (time.Time, bool) { return c.deadline, true }

func (c *callContext) Done() <-chan struct{} { return c.wait().Done() }

func (c *callContext) Err() error { return c.wait().Err() }

func (c *callContext) Value(key any) any {
	if key == (callKey{}) {
		return &c.call
	}
	c.mu.Lock()
	ctx := c.timed // package context asks for it to avoid a goroutine that watches c
	c.mu.Unlock()
	if ctx == nil {
		ctx = c.Context
	}
	return ctx.Value(key)
}

// newRequestID returns 128 random bits in hexadecimal, the form of a W3C trace id. It
// identifies a call and authorizes nothing.
func newRequestID() string {
	var id [16]byte
	binary.LittleEndian.PutUint64(id[:8], rand.Uint64()) //nolint:gosec // see above
	binary.LittleEndian.PutUint64(id[8:], rand.Uint64()) //nolint:gosec // see above
	var text [2 * len(id)]byte
	hex.Encode(text[:], id[:])
	return string(text[:])
}
