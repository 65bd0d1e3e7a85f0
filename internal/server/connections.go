package server

import (
	"errors"
	"net"
	"sync"
	"syscall"

	"github.com/secretbroker/secretbroker/internal/authz"
)

// connectionCount bounds how many connections each principal has open. Up to
// the limit they serve; as many again are let in so that the caller can be told
// why its calls are refused; beyond that the handshake fails. Peers without an
// identity count as one principal.
type connectionCount struct {
	limit int

	mu   sync.Mutex
	open map[authz.Principal]int
}

func newConnectionCount(limit int) *connectionCount {
	return &connectionCount{limit: limit, open: make(map[authz.Principal]int)}
}

var errTooManyConnections = errors.New("server: the caller has too many connections open")

// add counts a connection until it is closed.
func (c *connectionCount) add(who authz.Principal, conn net.Conn) (counted net.Conn, excess bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.open[who]
	if n >= 2*c.limit {
		return nil, false, errTooManyConnections
	}
	c.open[who] = n + 1
	return &countedConn{Conn: conn, done: sync.OnceFunc(func() { c.remove(who) })}, n >= c.limit, nil
}

func (c *connectionCount) remove(who authz.Principal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[who]--; c.open[who] <= 0 {
		delete(c.open, who)
	}
}

// countedConn tells when it is closed.
type countedConn struct {
	net.Conn
	done func()
}

func (c *countedConn) Close() error {
	c.done()
	return c.Conn.Close()
}

// SyscallConn lets gRPC set the socket's options, as it could without counting.
func (c *countedConn) SyscallConn() (syscall.RawConn, error) {
	if s, ok := c.Conn.(syscall.Conn); ok {
		return s.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}
