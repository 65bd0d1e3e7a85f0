package server

import (
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"github.com/secretbroker/secretbroker/internal/admission"
)

// callMetrics counts and times calls. Its labels are closed sets, methods with a
// rule and gRPC's codes: nothing that a caller writes becomes a label.
type callMetrics struct {
	total      *prometheus.CounterVec
	seconds    *prometheus.HistogramVec
	handshakes prometheus.Counter
	// overLimit counts the calls that each limit kept out, by the limit's label.
	overLimit *prometheus.CounterVec

	methods sync.Map // of *methodMetrics, by label
}

func newCallMetrics(reg prometheus.Registerer) *callMetrics {
	m := &callMetrics{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "secretbroker_grpc_calls_total",
			Help: "Calls, by method and the gRPC code of their answer, which may wait for the audit log after it was counted.",
		}, []string{"method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "secretbroker_grpc_call_duration_seconds",
			Help:    "Time from a call's arrival at the handler until its answer stands. It may then wait for the audit log, see secretbroker_audit_write_seconds_total.",
			Buckets: []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"method"}),
	}
	m.handshakes = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "secretbroker_tls_handshake_failures_total",
		Help: "Connections that ended before the peer had shown an acceptable client certificate.",
	})
	m.overLimit = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "secretbroker_calls_over_limit_total",
		Help: "Calls refused with OVERLOADED before anything was done for them, by the limit they were over; management_ is in front of the limits on calls that manage integrations or ask about policies.",
	}, []string{"limit"})
	reg.MustRegister(m.total, m.seconds, m.handshakes, m.overLimit)
	return m
}

// gate makes a gate whose refusals are counted, with prefix in front of the limits.
func (m *callMetrics) limiter(prefix string, l admission.Limits) *limiter {
	g := &limiter{admission.New(l), make(map[admission.Limit]prometheus.Counter, len(admission.All))}
	for _, limit := range admission.All {
		g.over[limit] = m.overLimit.WithLabelValues(prefix + string(limit))
	}
	return g
}

// of returns the metrics of a method; those without a rule share one. They are
// kept at hand because looking a label up takes longer than counting.
func (m *callMetrics) of(fullMethod string) *methodMetrics {
	method := "unknown"
	if rules[fullMethod] != refused {
		method = strings.TrimPrefix(fullMethod, "/")
	}
	if of, ok := m.methods.Load(method); ok {
		return of.(*methodMetrics)
	}
	of := &methodMetrics{seconds: m.seconds.WithLabelValues(method), other: m.total.MustCurryWith(prometheus.Labels{"method": method})}
	of.ok = of.other.WithLabelValues(codes.OK.String())
	kept, _ := m.methods.LoadOrStore(method, of)
	return kept.(*methodMetrics)
}

// methodMetrics count and time the calls of one method.
type methodMetrics struct {
	seconds prometheus.Observer
	ok      prometheus.Counter
	other   *prometheus.CounterVec // by code
}

func (m *methodMetrics) observe(code codes.Code, took time.Duration) {
	if code == codes.OK {
		m.ok.Inc()
	} else {
		m.other.WithLabelValues(code.String()).Inc()
	}
	m.seconds.Observe(took.Seconds())
}
