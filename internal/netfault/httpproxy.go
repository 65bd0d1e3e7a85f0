package netfault

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
)

// HTTPProxy is an HTTP proxy that connects (CONNECT, RFC 9110, section 9.3.6) or fails. It
// is an http.Handler for an HTTP/1 server.
type HTTPProxy struct {
	// Status, if not zero, is the response to each request.
	Status int
	// Silent means that the proxy does not respond.
	Silent bool
	// Dial maps the "host:port" of a target to the address to connect to. Other targets
	// get the response 502.
	Dial map[string]string
}

// ServeHTTP implements http.Handler. It returns when both directions of a tunnel have
// ended.
func (p *HTTPProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case p.Silent:
		<-r.Context().Done()
		return
	case p.Status != 0:
		w.WriteHeader(p.Status)
		return
	case r.Method != http.MethodConnect:
		w.WriteHeader(http.StatusNotImplemented)
		return
	}
	server, err := p.connect(r.Context(), r.Host)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer func() { _ = server.Close() }() // the other side sees that the connection ends
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	defer func() { _ = client.Close() }() // the other side sees that the connection ends
	if _, err := io.WriteString(client, "HTTP/1.1 200 Connected\r\n\r\n"); err != nil {
		return
	}
	var directions sync.WaitGroup
	forward := func(to net.Conn, from io.Reader) {
		_, _ = io.Copy(to, from) // an error ends the tunnel as well
		_ = client.Close()
		_ = server.Close()
	}
	directions.Go(func() { forward(server, buffered) })
	directions.Go(func() { forward(client, server) })
	directions.Wait()
}

func (p *HTTPProxy) connect(ctx context.Context, target string) (net.Conn, error) {
	address, ok := p.Dial[target]
	if !ok {
		return nil, net.UnknownNetworkError(target)
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", address)
}
