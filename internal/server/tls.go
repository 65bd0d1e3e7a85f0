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

// checkConnection checks a finished handshake again. It repeats what the TLS configuration
// and gRPC enforce, so that neither a mistake in the configuration nor an environment
// variable of gRPC can admit a weak connection.
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

// connectionMetrics counts connections and handshakes that the server ended.
type connectionMetrics struct {
	displaced  *prometheus.CounterVec // handshakes
	cut        prometheus.Counter     // connections
	denied     prometheus.Counter     // connections
	unrecorded prometheus.Counter     // connections
	abused     map[error]prometheus.Counter
}

func newConnectionMetrics(reg prometheus.Registerer, underWay func() int) *connectionMetrics {
	m := &connectionMetrics{
		displaced: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "secretbroker_tls_handshakes_displaced_total",
			Help: "Handshakes that the broker ended early because more were in progress than limits.max_handshakes (all) or, from one address, half of it (address), by bound.",
		}, []string{"bound"}),
		cut: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "secretbroker_tls_connections_cut_total",
			Help: "Open connections that the broker closed because their client certificate was revoked, expired or no longer trusted.",
		}),
		denied: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "secretbroker_denied_connections_total",
			Help: "Connections of clients on the deny list: open ones that the broker closed, and new ones whose calls it refused.",
		}),
		unrecorded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "secretbroker_connections_unrecorded_total",
			Help: "Connections that the broker closed, with their pending answers, because it could not write the audit log.",
		}),
	}
	abused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "secretbroker_connections_cut_total",
		Help: "Connections that the broker closed because the peer exceeded a bound on memory, time or frames, by bound.",
	}, []string{"bound"})
	m.abused = map[error]prometheus.Counter{
		errIncompleteRequest: abused.WithLabelValues("request_time"),
		errNothingTaken:      abused.WithLabelValues("answer_time"),
		errRapidResets:       abused.WithLabelValues("resets"),
		errControlFrames:     abused.WithLabelValues("control_frames"),
		errTooMuchMemory:     abused.WithLabelValues("memory"),
	}
	reg.MustRegister(abused, m.displaced, m.cut, m.unrecorded, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "secretbroker_tls_handshakes_in_progress",
		Help: "TLS handshakes in progress; limits.max_handshakes limits them.",
	}, func() float64 { return float64(underWay()) }))
	return m
}
