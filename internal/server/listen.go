package server

import (
	"context"
	"net"
)

// Listen listens at a TCP address for clients of a Server. Where the system can, it
// keeps connections on which the client has said nothing yet to itself: strangers who
// connect and say nothing cost the broker nothing.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	l := net.ListenConfig{Control: awaitData}
	return l.Listen(ctx, "tcp", address)
}
