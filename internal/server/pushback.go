package server

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

// A refused call costs the broker half of what an answered one does: nearly all
// of it is TLS and HTTP/2. Whoever sends calls that are refused is therefore read
// from more slowly, so that the rest waits at the caller, where it costs nothing
// here. Refusing before a call has been read (grpc's InTapHandle) would cost a
// quarter, but leaves the call's timer behind until the caller's own deadline.
const (
	// pausePerRefusal is how long a connection is not read from after a refusal.
	pausePerRefusal = time.Millisecond
	// maxPause bounds what refusals in a row add up to: what else the connection
	// carries, pings above all, must not wait for long.
	maxPause = 100 * time.Millisecond
)

// pushback makes a connection be read from more slowly.
type pushback struct {
	mu    sync.Mutex
	until time.Time // nothing is read before
}

// refused is told of each call of the connection that was over a limit.
func (p *pushback) refused(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.until.Before(now) {
		p.until = now
	}
	p.until = p.until.Add(pausePerRefusal)
	if most := now.Add(maxPause); p.until.After(most) {
		p.until = most
	}
}

func (p *pushback) pause() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.until.IsZero() {
		return 0
	}
	return time.Until(p.until)
}

// pushbackListener makes connections that can be pushed back.
type pushbackListener struct{ net.Listener }

func (l pushbackListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &pushbackConn{Conn: conn, closed: make(chan struct{})}, nil
}

// pushbackConn is a connection below TLS.
type pushbackConn struct {
	net.Conn
	pushback
	once   sync.Once
	closed chan struct{}
}

func (c *pushbackConn) Read(p []byte) (int, error) {
	if d := c.pause(); d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-c.closed: // which Read reports
		case <-t.C:
		}
	}
	return c.Conn.Read(p)
}

func (c *pushbackConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// RemoteAddr is the peer's address. It leads the interceptor to the connection:
// of all that gRPC hands on, nothing else does.
func (c *pushbackConn) RemoteAddr() net.Addr { return pushbackAddr{c.Conn.RemoteAddr(), c} }

// SyscallConn lets gRPC set the socket's options.
func (c *pushbackConn) SyscallConn() (syscall.RawConn, error) {
	if s, ok := c.Conn.(syscall.Conn); ok {
		return s.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

type pushbackAddr struct {
	net.Addr
	conn *pushbackConn
}
