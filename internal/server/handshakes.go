package server

import (
	"container/list"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// refusalPause is the least time between two log lines about failed
	// handshakes: whoever is not let in must not be able to fill the log.
	refusalPause = time.Second
	// maxHandshakeBytes is how much a peer may send before it is known. A chain of
	// three certificates with RSA keys has some 6 KiB; crypto/tls alone would take
	// 256 KiB from each stranger.
	maxHandshakeBytes = 32 << 10
)

var (
	errDisplaced       = errors.New("server: the handshake took too long while many others were under way, or the broker is ending")
	errTooMuchGreeting = errors.New("server: the peer sent too much before it was known")
)

// handshakes bounds what strangers can hold: how many handshakes are under way,
// and how much each may send. One too many ends the oldest of the address that has
// the most, so that a flood from one address displaces itself; among addresses with
// as many, an honest client needs milliseconds, and the silent and the slow ones
// go. gRPC ends each after handshakeTimeout in any case.
type handshakes struct {
	limit     int
	displaced prometheus.Counter

	mu       sync.Mutex
	underWay sources
	closed   bool
}

// handshake is a connection whose peer is not known yet.
type handshake struct {
	net.Conn
	left int // bytes that the peer may still send; less than 0 is no bound
	// source and at are where it is kept, nil once it is over.
	source *source
	at     *list.Element
}

func (h *handshakes) begin(raw net.Conn) *handshake {
	conn := &handshake{Conn: raw, left: maxHandshakeBytes}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.underWay.add(conn)
	switch {
	case h.closed:
		h.drop()
	case h.underWay.count > h.limit:
		h.drop()
		h.displaced.Inc()
	}
	return conn
}

// drop ends one handshake. The lock is held.
func (h *handshakes) drop() {
	worst := h.underWay.worst()
	h.underWay.remove(worst)
	_ = worst.Close()
}

// close ends all handshakes, those to come as well. gRPC's own shutdown would
// wait for them.
func (h *handshakes) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for h.underWay.count > 0 {
		h.drop()
	}
}

// end says that the handshake is over, and whether it was ended for another.
func (h *handshakes) end(conn *handshake) (displaced bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if conn.at == nil {
		return true
	}
	h.underWay.remove(conn)
	conn.left = -1
	return false
}

// count returns how many are under way.
func (h *handshakes) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.underWay.count
}

// Read is not called by two goroutines, nor while end is.
func (c *handshake) Read(p []byte) (int, error) {
	if c.left < 0 {
		return c.Conn.Read(p)
	}
	if c.left == 0 {
		return 0, errTooMuchGreeting
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// SyscallConn lets gRPC set the socket's options, as it could without a bound.
func (c *handshake) SyscallConn() (syscall.RawConn, error) {
	if s, ok := c.Conn.(syscall.Conn); ok {
		return s.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// handshakeLog tells the operator of runtimes that cannot connect, who would
// otherwise leave no trace.
type handshakeLog struct {
	log   *slog.Logger
	count func()

	mu         sync.Mutex
	last       time.Time
	suppressed int
}

// refused is told of every handshake that failed.
func (h *handshakeLog) refused(peer net.Addr, err error) {
	h.count()
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		return // a port check or a client that went away, not one that was refused
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if now.Sub(h.last) < refusalPause {
		h.suppressed++
		return
	}
	h.log.Warn("a client could not connect", "peer", peer.String(), "error", err, "more_since_last", h.suppressed)
	h.last, h.suppressed = now, 0
}
