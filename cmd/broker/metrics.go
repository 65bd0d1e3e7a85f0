package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// metrics are the figures of the parts that know no metrics library. No label
// ever holds a reference, a secret's name, an integration or a principal.
type metrics struct {
	registry     *prometheus.Registry
	configs      *prometheus.CounterVec
	storeReads   *prometheus.CounterVec
	storeSeconds *prometheus.HistogramVec
}

func newMetrics(reg *prometheus.Registry) *metrics {
	m := &metrics{
		registry: reg,
		configs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "secretbroker_configs_total",
			Help: "Configs looked at in Resolve calls, by what came of them: OK or the reason of docs/errors.md.",
		}, []string{"reason"}),
		storeReads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "secretbroker_store_reads_total",
			Help: "Reads of secret stores, by kind and what came of them.",
		}, []string{"kind", "reason"}),
		storeSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "secretbroker_store_read_duration_seconds",
			Help:    "Time that reads of secret stores took.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"kind"}),
	}
	reg.MustRegister(m.configs, m.storeReads, m.storeSeconds)
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "secretbroker_build_info",
		Help:        "Always 1; the label says which version runs.",
		ConstLabels: prometheus.Labels{"version": buildVersion()},
	})
	info.Set(1)
	reg.MustRegister(info)
	return m
}

func (m *metrics) configResolved(r secret.Reason) {
	m.configs.WithLabelValues(reasonLabel(r)).Inc()
}

func (m *metrics) storeRead(kind secret.Kind, err error, took time.Duration) {
	reason := secret.Reason("")
	if err != nil {
		reason = secret.AsError(err).Reason
	}
	m.storeReads.WithLabelValues(string(kind), reasonLabel(reason)).Inc()
	m.storeSeconds.WithLabelValues(string(kind)).Observe(took.Seconds())
}

func reasonLabel(r secret.Reason) string {
	if r == "" {
		return "OK"
	}
	return string(r)
}

// watchIntegrations counts usable and broken integrations at each scrape.
func (m *metrics) watchIntegrations(files *registry.Files) {
	gauge := func(state, help string, count func() int) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "secretbroker_integrations",
			Help:        "Integrations that can be used, and files that are not in effect because they are faulty.",
			ConstLabels: prometheus.Labels{"state": state},
		}, func() float64 { return float64(count()) }))
	}
	gauge("serving", "", func() int { return len(files.List()) })
	gauge("faulty", "", func() int { return len(files.Faults()) })
}

// watchCache reads the cache's counters at each scrape.
func (m *metrics) watchCache(c *cache.Cache) {
	counter := func(name, help string, read func(cache.Stats) uint64) {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "secretbroker_cache_" + name, Help: help},
			func() float64 { return float64(read(c.Stats())) }))
	}
	gauge := func(name, help string, read func(cache.Stats) int64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "secretbroker_cache_" + name, Help: help},
			func() float64 { return float64(read(c.Stats())) }))
	}
	counter("hits_total", "Requests answered from memory.", func(s cache.Stats) uint64 { return s.Hits })
	counter("misses_total", "Requests that started a read of the store.", func(s cache.Stats) uint64 { return s.Misses })
	counter("shared_total", "Requests that joined another's read of the store.", func(s cache.Stats) uint64 { return s.Shared })
	counter("negative_hits_total", "Requests answered with a remembered failure.", func(s cache.Stats) uint64 { return s.NegativeHits })
	counter("stale_answers_total", "Requests answered with an expired value because of an outage.", func(s cache.Stats) uint64 { return s.StaleAnswers })
	counter("paced_total", "Requests that had to wait because the secret had only just been read.", func(s cache.Stats) uint64 { return s.Paced })
	counter("refreshes_total", "Reads ahead of expiry.", func(s cache.Stats) uint64 { return s.Refreshes })
	counter("load_failures_total", "Reads that failed.", func(s cache.Stats) uint64 { return s.LoadFailures })
	counter("dropped_sets_total", "Values read but not kept because the cache was too busy.", func(s cache.Stats) uint64 { return s.DroppedSets })
	counter("rejected_sets_total", "Values read but not kept because the cache is too small for the working set; if this grows, raise cache.max_bytes.", func(s cache.Stats) uint64 { return s.RejectedSets })
	counter("evictions_total", "Values given up for want of room; if this grows, raise cache.max_bytes.", func(s cache.Stats) uint64 { return s.Evictions })
	gauge("entries", "Values in memory.", func(s cache.Stats) int64 { return s.Entries })
	gauge("bytes", "Estimated memory that cached values take.", func(s cache.Stats) int64 { return s.Bytes })
}
