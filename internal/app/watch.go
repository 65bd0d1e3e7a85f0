package app

import (
	"bytes"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/keyfile"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/watch"
)

// openVersionKey reads the key that computes versions, nil if none is configured.
func openVersionKey(cfg config.Watch) (*provider.VersionKey, error) {
	if cfg.VersionKeyFile == "" {
		return nil, nil
	}
	data, err := keyfile.Read(cfg.VersionKeyFile, provider.MaxVersionKey+2)
	if err != nil {
		return nil, fmt.Errorf("watch.version_key_file: %w", err)
	}
	defer clear(data)
	key, err := provider.NewVersionKey(kinds.All(), bytes.TrimRight(data, "\r\n"))
	if err != nil {
		return nil, fmt.Errorf("watch.version_key_file: %s: %w", cfg.VersionKeyFile, err)
	}
	return key, nil
}

// newHub returns the Hub of the notices of changed secrets.
func newHub(cfg config.Watch, m *metrics) *watch.Hub {
	lag := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "secretbroker_watch_notice_delay_seconds",
		Help:    "Time from when the broker learned of a new version of a secret until it told a watcher with CHANGED. It includes watch.splay.",
		Buckets: []float64{.001, .005, .01, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 60},
	})
	hub := watch.New(watch.Config{
		Splay: time.Duration(cfg.Splay), ExpiryLead: time.Duration(cfg.ExpiryLead),
		MaxItems: cfg.MaxItems, MaxItemsPerPrincipal: cfg.MaxItemsPerPrincipal, MaxSecretsPerPrincipal: cfg.MaxSecretsPerPrincipal,
		MaxReadsPerSecond: cfg.MaxReadsPerSecond,
		Lag:               func(d time.Duration) { lag.Observe(d.Seconds()) },
	})
	gauge := func(name, help string, read func(watch.Stats) int) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "secretbroker_watch_" + name, Help: help},
			func() float64 { return float64(read(hub.Stats())) }))
	}
	gauge("items", "Configs that open Watch streams watch. secretbroker_streams has the number of streams.", func(s watch.Stats) int { return s.Items })
	gauge("secrets", "Distinct secrets that open Watch streams watch.", func(s watch.Stats) int { return s.Secrets })
	gauge("principals", "Principals with open Watch streams.", func(s watch.Stats) int { return s.Principals })
	for _, state := range watch.States {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "secretbroker_watch_notices_total", Help: "Notices sent to watchers by state, such as CHANGED.", ConstLabels: prometheus.Labels{"state": state.String()},
		}, func() float64 { return float64(hub.Stats().Notices[state]) }))
	}
	m.registry.MustRegister(lag, prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "secretbroker_watch_reads_total",
		Help: "Reads that the broker began because a secret is watched. Some were answered from the cache.",
	}, func() float64 { return float64(hub.Stats().Reads) }))
	return hub
}

// mayWatch returns a function that reports whether a principal may watch an integration's
// secrets because of a role.
func mayWatch(roles func() *authz.Roles) func(authz.Principal, *integration.Integration) bool {
	return func(who authz.Principal, in *integration.Integration) bool {
		return authz.Authority{Organisation: roles(), Integration: in.Roles}.May(who, authz.ToWatch)
	}
}

// watchingNow returns a function that returns the principals that watch an integration as
// uses of it at this moment, followed by those that used returns.
func watchingNow(hub *watch.Hub, used func(id, uid string, since time.Time) []registry.Usage) func(id, uid string, since time.Time) []registry.Usage {
	return func(id, uid string, since time.Time) (all []registry.Usage) {
		now := time.Now().UTC()
		for _, who := range hub.Users(id) {
			all = append(all, registry.Usage{Integration: id, UID: uid, Principal: who, FirstAt: now, LastAt: now})
		}
		return append(all, used(id, uid, since)...)
	}
}
