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
// and how much each may send. One too many ends the oldest: whoever is honest
// needs milliseconds, so that it is the silent and the slow ones that go. gRPC
// ends each after handshakeTimeout in any case.
type handshakes struct {
	limit     int
	displaced prometheus.Counter

	mu       sync.Mutex
	underWay list.List // of *handshake, the oldest first
	closed   bool
}

// handshake is a connection whose peer is not known yet.
type handshake struct {
	net.Conn
	left int // bytes that the peer may still send; less than 0 is no bound
	at   *list.Element
}

func (h *handshakes) begin(raw net.Conn) *handshake {
	conn := &handshake{Conn: raw, left: maxHandshakeBytes}
	h.mu.Lock()
	defer h.mu.Unlock()
	conn.at = h.underWay.PushBack(conn)
	switch {
	case h.closed:
		h.dropOldest()
	case h.underWay.Len() > h.limit:
		h.dropOldest()
		h.displaced.Inc()
	}
	return conn
}

// dropOldest ends the oldest handshake. The lock is held.
func (h *handshakes) dropOldest() {
	oldest, _ := h.underWay.Remove(h.underWay.Front()).(*handshake) // nothing else is in it
	oldest.at = nil
	_ = oldest.Close()
}

// close ends all handshakes, those to come as well. gRPC's own shutdown would
// wait for them.
func (h *handshakes) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for h.underWay.Len() > 0 {
		h.dropOldest()
	}
}

// end says that the handshake is over, and whether it was ended for another.
func (h *handshakes) end(conn *handshake) (displaced bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if conn.at == nil {
		return true
	}
	h.underWay.Remove(conn.at)
	conn.left = -1
	return false
}

// count returns how many are under way.
func (h *handshakes) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.underWay.Len()
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
