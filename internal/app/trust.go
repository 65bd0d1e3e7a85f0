package app

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/server"
	"github.com/secretbroker/secretbroker/internal/trust"
)

// openTrust opens the broker's certificate and its client authorities, from the files of
// tls or from the Workload API of spiffe. config.Load ensures that exactly one of the two
// is configured.
func openTrust(ctx context.Context, cfg *config.Config, log *slog.Logger) (*trust.Store, server.IdentityRules, error) {
	if cfg.SPIFFE.Socket == "" {
		rules, err := fileRules(cfg.TLS)
		if err != nil {
			return nil, rules, &exitError{Code: exitUsage, Err: err}
		}
		store, err := trust.OpenFiles(tlsFiles(cfg.TLS, log))
		if err != nil {
			return nil, rules, &exitError{Code: exitUsage, Err: err}
		}
		return store, rules, nil
	}
	domain, err := spiffeid.TrustDomainFromString(cfg.SPIFFE.TrustDomain)
	rules := server.IdentityRules{TrustDomain: domain, SPIFFEOnly: true}
	if err != nil {
		return nil, rules, &exitError{Code: exitUsage, Err: err}
	}
	log.Info("waiting for an identity", "socket", cfg.SPIFFE.Socket, "trust_domain", domain.Name())
	store, err := trust.OpenWorkloadAPI(ctx, trust.WorkloadAPIConfig{
		Socket:      cfg.SPIFFE.Socket,
		TrustDomain: domain,
		Options:     trust.Options{Logger: log},
	})
	if err != nil {
		return nil, rules, &exitError{Code: exitFailure, Err: err}
	}
	return store, rules, nil
}

func fileRules(t config.TLS) (server.IdentityRules, error) {
	if t.TrustDomain == "" {
		return server.IdentityRules{}, nil
	}
	domain, err := spiffeid.TrustDomainFromString(t.TrustDomain)
	return server.IdentityRules{TrustDomain: domain}, err
}

func tlsFiles(t config.TLS, log *slog.Logger) trust.FilesConfig {
	return trust.FilesConfig{
		CertFile:     t.CertFile,
		KeyFile:      t.KeyFile,
		ClientCAFile: t.ClientCAFile,
		CRLFiles:     t.CRLFiles,
		CRLDir:       t.CRLDir,
		Options:      trust.Options{Logger: log},
	}
}

// watchTrust exports the expiration times in effect and the number of failed reads.
func (m *metrics) watchTrust(store *trust.Store) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "secretbroker_tls_reload_failures_total",
		Help: "Failed attempts to read the certificate, client authorities or CRLs again; the last valid version remains in use.",
	}, func() float64 { return float64(store.Stats().ReloadFailures) }))
	m.registry.MustRegister(&expirations{
		desc: prometheus.NewDesc("secretbroker_tls_certificate_expiration_timestamp_seconds",
			"Unix time at which the broker's certificate expires (server), the first client authority expires (client_ca), or the first CRL must be replaced (crl). Absent for what is not configured.",
			[]string{"which"}, nil),
		read: store.Stats,
	})
}

// expirations is a Collector of the times at which certificates and CRLs expire. It has no
// series for what does not expire: 0 would be a time long ago.
type expirations struct {
	desc *prometheus.Desc
	read func() trust.Stats
}

// Describe implements prometheus.Collector.
func (e *expirations) Describe(to chan<- *prometheus.Desc) { to <- e.desc }

// Collect implements prometheus.Collector.
func (e *expirations) Collect(to chan<- prometheus.Metric) {
	s := e.read()
	for _, at := range []struct {
		which string
		time  time.Time
	}{{"server", s.Server}, {"client_ca", s.ClientCA}, {"crl", s.CRL}} {
		if !at.time.IsZero() {
			to <- prometheus.MustNewConstMetric(e.desc, prometheus.GaugeValue, float64(at.time.Unix()), at.which)
		}
	}
}
