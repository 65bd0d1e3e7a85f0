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
	// refusalPause is the minimum time between two log lines about failed handshakes:
	// peers that are refused must not be able to fill the log.
	refusalPause = time.Second
	// maxHandshakeBytes is how much a peer may send before it is authenticated. A chain
	// of three certificates with RSA keys has about 6 KiB; crypto/tls alone would accept
	// 256 KiB from every peer.
	maxHandshakeBytes = 32 << 10
)

var (
	errDisplaced         = errors.New("server: the handshake took too long during many others, or the broker is shutting down")
	errHandshakeTooLarge = errors.New("server: the peer sent too many bytes before it was authenticated")
)

// handshakes limits what unauthenticated peers can use: the number of concurrent
// handshakes, and the bytes that each may send. If there is one too many, it ends the
// oldest handshake of the address that has the most, so that a flood from one address
// displaces itself. Among addresses with equal numbers it ends the oldest handshake: an
// honest client finishes within milliseconds, so silent and slow peers lose. One address
// never has more than perSource, even if there are no others: those who come later find
// free places, and share the CPU with fewer. In any case gRPC ends a handshake after
// handshakeTimeout.
type handshakes struct {
	limit, perSource int
	// displaced counts handshakes ended because of limit, displacedBySource those ended
	// because of perSource.
	displaced, displacedBySource prometheus.Counter

	mu       sync.Mutex
	underWay sources
	closed   bool
}

// handshake is a connection whose peer is not authenticated yet.
type handshake struct {
	net.Conn
	left int // bytes that the peer may still send; negative: no limit
	// source and at locate the handshake in sources; nil after its end.
	source *source
	at     *list.Element
}

// handshakesPerSource returns the limit for one address: half of all, but at least the
// minimum of limits.max_handshakes. A lower limit would protect others better, but a NAT
// gateway or load balancer makes many clients one address, and a flood from there then
// displaces their handshakes sooner.
func handshakesPerSource(limit int) int { return max(16, limit/2) }

func (h *handshakes) begin(raw net.Conn) *handshake {
	conn := &handshake{Conn: raw, left: maxHandshakeBytes}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.underWay.add(conn)
	switch {
	case h.closed:
		h.drop(h.underWay.worst())
	case conn.source.handshakes.Len() > h.perSource:
		h.drop(conn.source.oldest())
		h.displacedBySource.Inc()
	case h.underWay.count > h.limit:
		h.drop(h.underWay.worst())
		h.displaced.Inc()
	}
	return conn
}

// drop ends a handshake. It requires the lock.
func (h *handshakes) drop(conn *handshake) {
	h.underWay.remove(conn)
	_ = conn.Close()
}

// close ends all handshakes, including later ones. gRPC's shutdown would wait for them.
func (h *handshakes) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for h.underWay.count > 0 {
		h.drop(h.underWay.worst())
	}
}

// end ends the tracking of a handshake, and reports whether drop had closed it.
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

// count returns the number of current handshakes.
func (h *handshakes) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.underWay.count
}

// Read must not be called concurrently with itself or with end.
func (c *handshake) Read(p []byte) (int, error) {
	if c.left < 0 {
		return c.Conn.Read(p)
	}
	if c.left == 0 {
		return 0, errHandshakeTooLarge
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// SyscallConn lets gRPC set options of the socket, as on an unwrapped connection.
func (c *handshake) SyscallConn() (syscall.RawConn, error) {
	if s, ok := c.Conn.(syscall.Conn); ok {
		return s.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// handshakeLog logs failed handshakes, so that an operator can find runtimes that cannot
// connect: a failed handshake leaves no other trace.
type handshakeLog struct {
	log   *slog.Logger
	count func()

	mu         sync.Mutex
	last       time.Time
	suppressed int
}

// refused logs a failed handshake; it is called for each.
func (h *handshakeLog) refused(peer net.Addr, err error) {
	h.count()
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		return // a port check, or a client that disconnected by itself
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if now.Sub(h.last) < refusalPause {
		h.suppressed++
		return
	}
	h.log.Warn("refused a connection", "peer", peer.String(), "error", err, "more_since_last", h.suppressed)
	h.last, h.suppressed = now, 0
}
