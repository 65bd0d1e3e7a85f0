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

// approach is the way to one origin. Of requests that come at the same time, one
// leads: it connects, or has a connection at once, and the others follow. Over
// HTTP/2 they share its connection, where net/http by itself makes one for each and
// then throws away all but one. It is safe for concurrent use.
type approach struct {
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
func (a *approach) enter(ctx context.Context) (_ context.Context, done func()) {
	a.mu.Lock()
	var led chan struct{}
	wait := a.leading
	switch {
	case a.single:
		wait = nil
	case wait == nil:
		led = make(chan struct{})
		a.leading = led
	}
	a.mu.Unlock()
	if wait != nil {
		follow(ctx, wait, a.patience)
	}
	leave := sync.OnceFunc(func() {
		if led == nil {
			return
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.leading = nil
		close(led)
	})
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			conn, ok := info.Conn.(*tls.Conn)
			a.mu.Lock()
			a.single = !ok || conn.ConnectionState().NegotiatedProtocol != "h2"
			a.mu.Unlock()
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
