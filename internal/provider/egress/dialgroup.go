package egress

import (
	"context"
	"crypto/tls"
	"net/http/httptrace"
	"sync"
	"time"
)

// maxLead limits how long requests wait for the leading one. Connecting takes three
// round trips, less than half a second around the globe.
const maxLead = time.Second

// dialGroup lets concurrent requests to one origin share one dial. The first request
// leads: it dials, or gets an idle connection, and the others wait for it. Over
// HTTP/2 they then share its connection. net/http alone would open one connection for
// each and then close all but one. dialGroup is safe for concurrent use.
type dialGroup struct {
	patience time.Duration // how long followers wait

	mu sync.Mutex
	// leading is closed when the leading request has a connection, or has failed; nil
	// if no request leads.
	leading chan struct{}
	// single means that the last connection serves one request at a time, as with
	// HTTP/1. Then requests cannot share it, and none leads.
	single bool
}

// enter waits until the request may ask for a connection, at most until ctx ends. The
// caller sends the request with the returned context, and calls done at its end.
func (g *dialGroup) enter(ctx context.Context) (_ context.Context, done func()) {
	g.mu.Lock()
	var led chan struct{}
	wait := g.leading
	switch {
	case g.single:
		wait = nil
	case wait == nil:
		led = make(chan struct{})
		g.leading = led
	}
	g.mu.Unlock()
	if wait != nil {
		follow(ctx, wait, g.patience)
	}
	leave := sync.OnceFunc(func() {
		if led == nil {
			return
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		g.leading = nil
		close(led)
	})
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			if t := tunnelOf(ctx); t != nil {
				t.open.Store(true)
			}
			conn, ok := info.Conn.(*tls.Conn)
			g.mu.Lock()
			g.single = !ok || conn.ConnectionState().NegotiatedProtocol != "h2"
			g.mu.Unlock()
			leave()
		},
	}), leave
}

func follow(ctx context.Context, leading <-chan struct{}, patience time.Duration) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-leading:
	case <-timer.C:
	case <-ctx.Done():
	}
}
