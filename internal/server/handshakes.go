package server

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// refusalPause is the least time between two log lines about failed handshakes:
// whoever is not let in must not be able to fill the log.
const refusalPause = time.Second

// handshakeLog tells the operator of runtimes that cannot connect, who would
// otherwise leave no trace.
type handshakeLog struct {
	log   *slog.Logger
	total prometheus.Counter

	mu         sync.Mutex
	last       time.Time
	suppressed int
}

// refused is told of every handshake that failed.
func (h *handshakeLog) refused(peer net.Addr, err error) {
	h.total.Inc()
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
