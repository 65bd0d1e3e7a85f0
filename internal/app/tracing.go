package app

import (
	"context"
	"crypto/tls"
	"log/slog"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/secretbroker/secretbroker/internal/clienttls"
	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/tracing"
	"github.com/secretbroker/secretbroker/internal/tracing/otlp"
)

// traces sends the traces of calls to a collector. The zero value makes no traces.
type traces struct {
	tracer   *tracing.Tracer // nil if tracing is disabled
	exporter *otlp.Exporter
}

// openTracing returns the traces of the configuration.
func openTracing(cfg config.Tracing, m *metrics, log *slog.Logger) (*traces, error) {
	if cfg.Endpoint == "" {
		return &traces{}, nil
	}
	to, err := tracingConfig(cfg, log)
	if err != nil {
		return nil, &exitError{Code: exitUsage, Err: err}
	}
	exporter, err := otlp.New(to)
	if err != nil {
		return nil, &exitError{Code: exitFailure, Err: err}
	}
	log.Info("sending traces of calls that request one to a collector", "endpoint", cfg.Endpoint, "plaintext", cfg.Insecure)
	tracer := tracing.New(tracing.Config{Exporter: exporter, MaxCallsPerSecond: cfg.MaxCallsPerSecond, Logger: log})
	m.watchTracing(tracer)
	return &traces{tracer: tracer, exporter: exporter}, nil
}

// tracingConfig reads the files that the settings name.
func tracingConfig(cfg config.Tracing, log *slog.Logger) (otlp.Config, error) {
	to := otlp.Config{Endpoint: cfg.Endpoint, ServiceName: cfg.ServiceName, ServiceVersion: buildVersion()}
	to.HostName, _ = os.Hostname() // optional
	if cfg.Insecure {
		return to, nil
	}
	to.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	var err error
	to.Current, err = outgoingTLS(clienttls.Config{Section: "tracing", CAFile: cfg.CAFile, CertFile: cfg.CertFile, KeyFile: cfg.KeyFile}, cfg.Endpoint, log)
	if err != nil {
		return otlp.Config{}, err
	}
	return to, nil
}

func (t *traces) close() error {
	if t.exporter == nil {
		return nil
	}
	return t.exporter.Close()
}

// run sends traces until ctx ends.
func (t *traces) run(ctx context.Context) error {
	if t.tracer == nil {
		return nil
	}
	return t.tracer.Run(ctx)
}

// observeRead returns a function that adds a read of a store to metrics and traces.
func observeRead(m *metrics) func(context.Context, secret.Kind, error, time.Duration) {
	return func(ctx context.Context, kind secret.Kind, err error, took time.Duration) {
		m.storeRead(kind, err, took)
		tracing.ReadDone(ctx, err, took)
	}
}

// watchTracing reads the counters of the tracer at each scrape.
func (m *metrics) watchTracing(t *tracing.Tracer) {
	counter := func(name, help string, labels prometheus.Labels, read func(tracing.Stats) uint64) {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "secretbroker_tracing_" + name, Help: help, ConstLabels: labels},
			func() float64 { return float64(read(t.Stats())) }))
	}
	counter("calls_total", "Calls with a trace, because their callers requested one.", nil, func(s tracing.Stats) uint64 { return s.Calls })
	counter("calls_over_limit_total", "Calls whose requested trace was omitted because of tracing.max_calls_per_second.", nil, func(s tracing.Stats) uint64 { return s.OverLimit })
	counter("spans_sent_total", "Spans that the collector accepted.", nil, func(s tracing.Stats) uint64 { return s.Sent })
	const dropped = "Spans that were dropped: the queue was full (full), the collector did not accept them in time (unsent), or it rejected them (rejected)."
	counter("spans_dropped_total", dropped, prometheus.Labels{"reason": "full"}, func(s tracing.Stats) uint64 { return s.Overflown })
	counter("spans_dropped_total", dropped, prometheus.Labels{"reason": "unsent"}, func(s tracing.Stats) uint64 { return s.Unsent })
	counter("spans_dropped_total", dropped, prometheus.Labels{"reason": "rejected"}, func(s tracing.Stats) uint64 { return s.Rejected })
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "secretbroker_tracing_spans_waiting",
		Help: "Spans in the queue.",
	}, func() float64 { return float64(t.Stats().Queued) }))
}
