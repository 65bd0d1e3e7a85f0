package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/trust"
)

// connections knows every open connection. It bounds how many each principal
// has: up to the limit they serve; as many again are let in so that the caller
// can be told why its calls are refused; beyond that the handshake fails. Peers
// without an identity count as one principal. And it cuts off those whose
// certificate is no longer good.
type connections struct {
	limit   int
	log     *slog.Logger
	metrics *connectionMetrics

	mu   sync.Mutex
	of   map[authz.Principal]int
	open map[*connection]struct{}
}

func newConnections(limit int, log *slog.Logger, metrics *connectionMetrics) *connections {
	return &connections{limit: limit, log: log, metrics: metrics, of: make(map[authz.Principal]int), open: make(map[*connection]struct{})}
}

var errTooManyConnections = errors.New("server: the caller has too many connections open")

// connection is one of a known peer; it tells when it is closed.
type connection struct {
	net.Conn          // TLS
	raw      net.Conn // beneath it
	who      authz.Principal
	serial   string
	peer     *trust.Peer // for recheck alone
	removed  func()
	isCut    bool // for recheck alone
	outlet
	// unrecorded is called when what was answered could not be recorded.
	unrecorded func(err error)
}

// add keeps a connection until it is closed.
func (c *connections) add(conn *connection) (excess bool, err error) {
	conn.removed = sync.OnceFunc(func() { c.remove(conn) })
	conn.unrecorded = func(err error) {
		c.metrics.unrecorded.Inc()
		c.log.Error("a connection was closed, and its answers withheld: the audit log cannot be written", "peer", conn.RemoteAddr().String(),
			"principal", string(conn.who), "error", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.of[conn.who]
	if n >= 2*c.limit {
		return false, errTooManyConnections
	}
	c.of[conn.who] = n + 1
	c.open[conn] = struct{}{}
	return n >= c.limit, nil
}

func (c *connections) remove(conn *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of[conn.who]--; c.of[conn.who] <= 0 {
		delete(c.of, conn.who)
	}
	delete(c.open, conn)
}

// watch judges every open connection anew, as its handshake did, whenever
// something else comes into force and at every interval, until ctx ends.
func (c *connections) watch(ctx context.Context, in *trust.Store, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		changed := in.Changed() // before, so that no change is missed
		c.recheck()
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-tick.C:
		}
	}
}

// recheck cuts off whoever would not be let in just now. It is called by one
// goroutine.
func (c *connections) recheck() {
	c.mu.Lock()
	open := make([]*connection, 0, len(c.open))
	for conn := range c.open {
		open = append(open, conn)
	}
	c.mu.Unlock()
	for _, conn := range open {
		if conn.isCut {
			continue
		}
		if err := conn.peer.Check(); err != nil {
			c.log.Warn("a connection was cut: its client certificate is no longer good", "peer", conn.RemoteAddr().String(),
				"principal", string(conn.who), "serial", conn.serial, "error", err)
			conn.isCut = true
			c.metrics.cut.Inc()
			// Beneath TLS, which would wait for the peer to take its goodbye. gRPC
			// notices, ends the calls and closes the connection.
			_ = conn.raw.Close()
		}
	}
}

func (c *connection) Close() error {
	c.removed()
	return c.Conn.Close()
}

// SyscallConn lets gRPC set the socket's options, as it could without counting.
func (c *connection) SyscallConn() (syscall.RawConn, error) {
	if s, ok := c.Conn.(syscall.Conn); ok {
		return s.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}
