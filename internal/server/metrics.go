package server

import (
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"github.com/secretbroker/secretbroker/internal/admission"
)

// callMetrics counts calls and measures their duration. The sets of its labels are closed:
// methods with a rule, and gRPC's codes. No text of a caller becomes a label.
type callMetrics struct {
	total      *prometheus.CounterVec
	seconds    *prometheus.HistogramVec
	handshakes prometheus.Counter
	// overLimit counts refused calls by the label of the limit.
	overLimit *prometheus.CounterVec

	reg prometheus.Registerer

	methods sync.Map // of *methodMetrics, by label
}

func newCallMetrics(reg prometheus.Registerer) *callMetrics {
	m := &callMetrics{
		reg: reg,
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "secretbroker_grpc_calls_total",
			Help: "Calls by method and gRPC status code, such as PERMISSION_DENIED. A call is counted when its answer is ready, which may be before the audit log has recorded it.",
		}, []string{"method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "secretbroker_grpc_call_duration_seconds",
			Help:    "Time from the start of a call's handler until its answer is ready. The answer may then wait for the audit log, see secretbroker_audit_write_seconds_total.",
			Buckets: []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"method"}),
	}
	m.handshakes = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "secretbroker_tls_handshake_failures_total",
		Help: "Connections that ended before the peer presented an accepted client certificate.",
	})
	m.overLimit = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "secretbroker_calls_over_limit_total",
		Help: "Calls refused with OVERLOADED before any work was done for them, by limit: a setting of limits, cpu (work waits for a CPU), memory (the caller's share, or all of it, is in use) or callers (too many callers at the same time). The prefix management_ marks the limits of calls that manage integrations or ask about policies, health_, watch_ and reflection_ those of streams.",
	}, []string{"limit"})
	reg.MustRegister(m.total, m.seconds, m.handshakes, m.overLimit)
	return m
}

// limiter returns a limiter that counts its refusals; prefix precedes the names of the
// limits in the counter's label.
func (m *callMetrics) limiter(prefix string, l admission.Limits) *limiter {
	g := &limiter{Limiter: admission.New(l), over: make(map[admission.Limit]prometheus.Counter, len(admission.All))}
	for _, limit := range admission.All {
		g.over[limit] = m.overLimit.WithLabelValues(prefix + string(limit))
	}
	return g
}

// streamLimiter is limiter for the streams of a service, with a metric of the open ones.
func (m *callMetrics) streamLimiter(service string, l admission.Limits) *limiter {
	lim := m.limiter(service+"_", l)
	m.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "secretbroker_streams",
		Help:        "Open streams by service.",
		ConstLabels: prometheus.Labels{"service": service},
	}, func() float64 { return float64(lim.Active()) }))
	return lim
}

// of returns the metrics of a method; methods without a rule share one. It caches them
// because looking a label up takes longer than counting.
func (m *callMetrics) of(fullMethod string) *methodMetrics {
	method := "unknown"
	if rules[fullMethod] != refused {
		method = strings.TrimPrefix(fullMethod, "/")
	}
	if of, ok := m.methods.Load(method); ok {
		return of.(*methodMetrics)
	}
	of := &methodMetrics{seconds: m.seconds.WithLabelValues(method), other: m.total.MustCurryWith(prometheus.Labels{"method": method})}
	of.ok = of.other.WithLabelValues(codeName(codes.OK))
	kept, _ := m.methods.LoadOrStore(method, of)
	return kept.(*methodMetrics)
}

// methodMetrics counts the calls of one method and measures their duration.
type methodMetrics struct {
	seconds prometheus.Observer
	ok      prometheus.Counter
	other   *prometheus.CounterVec // by code
}

func (m *methodMetrics) observe(code codes.Code, took time.Duration) {
	if code == codes.OK {
		m.ok.Inc()
	} else {
		m.other.WithLabelValues(codeName(code)).Inc()
	}
	m.seconds.Observe(took.Seconds())
}
