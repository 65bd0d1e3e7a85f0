package egress

import (
	"context"
	"crypto/tls"
	"net/http/httptrace"
	"sync"
	"time"
)

// maxLead is how long requests wait for the one that leads. To connect takes three
// round trips, which is less than half a second around the globe.
const maxLead = time.Second

// dialGroup lets concurrent requests to one origin share one dial. The first request
// leads: it dials, or gets a connection at once, and the others wait for it. Over
// HTTP/2 they share its connection, where net/http by itself makes one for each and
// then throws away all but one. It is safe for concurrent use.
type dialGroup struct {
	patience time.Duration // that followers have

	mu sync.Mutex
	// leading is closed once the request that leads has a connection, or has
	// failed; nil if none leads.
	leading chan struct{}
	// single: the last connection takes one request at a time, as in HTTP/1. Then
	// there is nothing to share and none leads.
	single bool
}

// enter returns when it is the request's turn to ask for a connection, at the
// latest when ctx ends. The request is made with the context that it returns; done
// is called at its end.
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
