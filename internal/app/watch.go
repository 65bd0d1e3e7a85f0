package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/keyfile"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/registry/seal"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore"
	"github.com/secretbroker/secretbroker/internal/usage"
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

// sealedVersionKey is the name of the key that computes versions in the database.
const sealedVersionKey = "version"

// shareVersionKey returns the key that computes versions and is sealed in the database, nil
// if there is no database or no key that seals. A key that cannot be opened is not
// replaced, because the versions would differ from those of other replicas.
func shareVersionKey(ctx context.Context, integrations *integrationStore, log *slog.Logger) (*provider.VersionKey, error) {
	if integrations.sealedKey == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, databaseTime)
	defer cancel()
	key, err := integrations.sealedKey(ctx, sealedVersionKey, provider.MinVersionKey)
	defer clear(key)
	switch {
	case err == nil:
		return provider.NewVersionKey(kinds.All(), key)
	case errors.Is(err, sqlstore.ErrNoSealer):
		log.Info("secrets of stores without versions cannot be watched: the broker has neither registry.seal.key_file nor watch.version_key_file")
		return nil, nil
	case errors.Is(err, seal.ErrCannotOpen):
		log.Error("secrets of stores without versions cannot be watched through this replica: no key in registry.seal.key_file opens the version key in the database; copy the key file of the other replicas and restart", "error", err)
		return nil, nil
	default:
		return nil, err
	}
}

const (
	// watchedInterval is the time between two notes of who watches which integration.
	watchedInterval = 30 * time.Second
	// watchedPause is the least time between them, while streams are opened.
	watchedPause = 2 * time.Second
)

// noteWatchers records the principals that watch an integration as users of it, until ctx
// ends, so that every replica knows them when the integration is to be deleted.
func noteWatchers(ctx context.Context, hub *watch.Hub, integrations registry.Store, uses *usage.Recorder) error {
	tick := time.NewTicker(watchedInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-hub.Opened():
		}
		for id, users := range hub.AllUsers() {
			if in, err := integrations.Get(id); err == nil {
				for _, who := range users {
					uses.UsedIntegration(who, id, in.UID)
				}
			}
		}
		wait(ctx, watchedPause)
	}
}

// newHub returns the Hub of the notices of changed secrets. changed is its Config.Changed.
func newHub(cfg config.Watch, m *metrics, others *replicas, changed func(integrationID, store, name string)) *watch.Hub {
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
		Share:             others.readWatched,
		Changed:           changed,
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
	}, func() float64 { return float64(hub.Stats().Reads) }), prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "secretbroker_watch_polls_total",
		Help: "How often the broker has asked a store which version of a watched secret is current, without reading it (vault.events.poll).",
	}, func() float64 { return float64(hub.Stats().Polls) }), prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "secretbroker_watch_postponed_reads_total",
		Help: "How often this replica has postponed the next read of a watched secret because another replica had read it.",
	}, func() float64 { return float64(hub.Stats().Postponed) }))
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
