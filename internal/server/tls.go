package server

import (
	"crypto/tls"
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/credentials"
)

var (
	errNotTLS   = errors.New("server: the connection is not a TLS server connection")
	errWeakTLS  = errors.New("server: the connection is not TLS 1.3 with a verified client certificate")
	errNotHTTP2 = errors.New("server: the client did not agree on HTTP/2 (ALPN)")
)

// checkConnection is the last look at a finished handshake. It repeats what the
// configuration and gRPC are there for, so that no mistake in the one and no
// environment variable of the other lets anybody in.
func checkConnection(info credentials.AuthInfo) (credentials.TLSInfo, error) {
	tlsInfo, ok := info.(credentials.TLSInfo)
	if !ok {
		return tlsInfo, errNotTLS
	}
	switch state := tlsInfo.State; {
	case state.Version < tls.VersionTLS13, len(state.PeerCertificates) == 0, len(state.VerifiedChains) == 0, len(state.VerifiedChains[0]) == 0:
		return tlsInfo, errWeakTLS
	case state.NegotiatedProtocol != "h2":
		return tlsInfo, errNotHTTP2
	}
	return tlsInfo, nil
}

// connectionMetrics counts connections that were ended for what they are.
type connectionMetrics struct {
	displaced  prometheus.Counter // handshakes
	cut        prometheus.Counter // connections
	unrecorded prometheus.Counter // connections
	abused     map[error]prometheus.Counter
}

func newConnectionMetrics(reg prometheus.Registerer, underWay func() int) *connectionMetrics {
	m := &connectionMetrics{
		displaced: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "secretbroker_tls_handshakes_displaced_total",
			Help: "Handshakes ended unfinished because as many newer ones as limits.max_handshakes were under way.",
		}),
		cut: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "secretbroker_tls_connections_cut_total",
			Help: "Open connections closed because their client certificate had been revoked, had expired or was no longer trusted.",
		}),
		unrecorded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "secretbroker_connections_unrecorded_total",
			Help: "Connections closed, with the answers under way on them, because the audit log could not be written.",
		}),
	}
	abused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "secretbroker_connections_cut_total",
		Help: "Connections closed because the peer made the broker keep too much, or wait, by the bound that it had reached.",
	}, []string{"bound"})
	m.abused = map[error]prometheus.Counter{
		errIncompleteRequest: abused.WithLabelValues("request_time"),
		errNothingTaken:      abused.WithLabelValues("answer_time"),
		errRapidResets:       abused.WithLabelValues("resets"),
		errControlFrames:     abused.WithLabelValues("control_frames"),
		errTooMuchMemory:     abused.WithLabelValues("memory"),
	}
	reg.MustRegister(abused, m.displaced, m.cut, m.unrecorded, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "secretbroker_tls_handshakes_under_way",
		Help: "Connections whose peer is not known yet; limits.max_handshakes bounds them.",
	}, func() float64 { return float64(underWay()) }))
	return m
}
