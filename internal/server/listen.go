package server

import (
	"context"
	"net"
)

// Listen listens on a TCP address for clients of a Server. If the operating system can, it
// does not pass on connections before the client has sent data: peers that connect and send
// nothing then cost the broker nothing.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	l := net.ListenConfig{Control: awaitData}
	return l.Listen(ctx, "tcp", address)
}
