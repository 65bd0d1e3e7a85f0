package app

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/budget"
	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/elapsed"
	"github.com/secretbroker/secretbroker/internal/manage"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/usage"
)

// metrics exports the counters of the parts that do not depend on a metrics library. No
// label contains a reference, a secret's name, an integration or a principal.
type metrics struct {
	registry     *prometheus.Registry
	configs      *prometheus.CounterVec
	configsOK    prometheus.Counter // of configs; the lookup would take longer than the increment
	storeReads   *prometheus.CounterVec
	storeSeconds *prometheus.HistogramVec
}

func newMetrics(reg *prometheus.Registry) *metrics {
	m := &metrics{
		registry: reg,
		configs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "secretbroker_configs_total",
			Help: "Configs processed in Resolve calls, by result: OK or the reason of docs/errors.md.",
		}, []string{"reason"}),
		storeReads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "secretbroker_store_reads_total",
			Help: "Reads of secret stores, by kind and result.",
		}, []string{"kind", "reason"}),
		storeSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "secretbroker_store_read_duration_seconds",
			Help:    "Duration of reads of secret stores.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"kind"}),
	}
	m.configsOK = m.configs.WithLabelValues(reasonLabel(""))
	reg.MustRegister(m.configs, m.storeReads, m.storeSeconds)
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "secretbroker_build_info",
		Help:        "Always 1; the label is the version of the broker.",
		ConstLabels: prometheus.Labels{"version": buildVersion()},
	})
	info.Set(1)
	reg.MustRegister(info)
	return m
}

func (m *metrics) configResolved(r secret.Reason) {
	if r == "" {
		m.configsOK.Inc()
		return
	}
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
func (m *metrics) watchIntegrations(store registry.Store) {
	gauge := func(state, help string, count func() int) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "secretbroker_integrations",
			Help:        "Integrations that can be used, and files that are not in effect because they are invalid.",
			ConstLabels: prometheus.Labels{"state": state},
		}, func() float64 { return float64(count()) }))
	}
	gauge("serving", "", func() int { return len(store.List()) })
	gauge("faulty", "", func() int { return len(store.Faults()) })
	m.watchRegistry(store)
}

// watchRegistry exports the state of the source of integrations.
func (m *metrics) watchRegistry(store registry.Store) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "secretbroker_registry_up",
		Help: "1 while the database or the directory of integrations is read; at 0 no change takes effect, a revocation neither.",
	}, func() float64 { return gaugeOf(store.Status().Problem == "") }), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "secretbroker_registry_writes_up",
		Help: "1 while the database of integrations accepts writes, which the broker tests every 10 s. Always 1 if integrations are files. At 0 no grant can be revoked.",
	}, func() float64 { return gaugeOf(store.Status().WriteProblem == "") }), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "secretbroker_registry_held_integrations",
		Help: "Integrations that are still served, for 5 minutes, although their files vanished, because several vanished together; always 0 with a database.",
	}, func() float64 { return float64(store.Status().Held) }), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "secretbroker_registry_age_seconds",
		Help: "Seconds since the last complete look at the database or the directory of integrations; the integrations in force are those that it found.",
	}, func() float64 { return max(0, elapsed.Between(store.Status().SeenAt, time.Now()).Seconds()) }))
}

func gaugeOf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// watchUsage exports the counters of the usage recorder.
func (m *metrics) watchUsage(r *usage.Recorder) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "secretbroker_usage_entries",
		Help: "Distinct uses of integrations in memory.",
	}, func() float64 { return float64(r.Entries()) }), prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "secretbroker_usage_folded_total",
		Help: "Uses of integrations that were recorded without the connector or the secret because their principal had too many distinct ones.",
	}, func() float64 { return float64(r.Folded()) }))
}

// watchAudit reads the audit log's counters at each scrape. The label of a copy
// is its index in audit.copies.
func (m *metrics) watchAudit(l *audit.Log, limiter *audit.Limiter, copies []config.AuditCopy) {
	counter := func(name, help string, labels prometheus.Labels, read func(audit.Stats) uint64) {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "secretbroker_audit_" + name, Help: help, ConstLabels: labels},
			func() float64 { return float64(read(l.Stats())) }))
	}
	gauge := func(name, help string, labels prometheus.Labels, read func() float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "secretbroker_audit_" + name, Help: help, ConstLabels: labels}, read))
	}
	counter("records_total", "Audit records written.", nil, func(s audit.Stats) uint64 { return s.Records })
	counter("batches_total", "Commits of the audit log; records_total / batches_total is the average number of records per commit.", nil, func(s audit.Stats) uint64 { return s.Batches })
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "secretbroker_audit_write_seconds_total",
		Help: "Total duration of the audit log's commits; divided by batches_total it is the average commit time, for which answers wait.",
	}, func() float64 { return l.Stats().WriteTime.Seconds() }))
	counter("failures_total", "Calls that failed because their records could not be written.", nil, func(s audit.Stats) uint64 { return s.Failures })
	counter("refusals_counted_total", "Refusals without an audit record of their own because their principal had too many; counted records include them.", nil, func(audit.Stats) uint64 { return limiter.Counted() })
	gauge("queue_bytes", "Bytes queued for the audit log's file or pipe.", nil, func() float64 { return float64(l.Stats().QueueBytes) })
	gauge("sequence", "Number of the audit log's last record.", nil, func() float64 { return float64(l.Head().Seq) })
	for i := range copies {
		labels := prometheus.Labels{"copy": strconv.Itoa(i)}
		counter("copy_sent_total", "Audit records written to the connection of a copy.", labels, func(s audit.Stats) uint64 { return s.Copies[i].Sent })
		counter("copy_dropped_total", "Audit records that were not sent to a copy; the file has them.", labels, func(s audit.Stats) uint64 { return s.Copies[i].Dropped })
		gauge("copy_queue_bytes", "Bytes queued for a copy's connection.", labels, func() float64 { return float64(l.Stats().Copies[i].QueueBytes) })
	}
}

// watchStores reads the counters of the stores, by kind, at each scrape.
func (m *metrics) watchStores(stores *provider.Set) {
	for _, kind := range secret.Kinds() {
		m.watchKind(stores, kind)
	}
}

func (m *metrics) watchKind(stores *provider.Set, kind secret.Kind) {
	labels := prometheus.Labels{"kind": string(kind)}
	counter := func(name, help string, read func(provider.Stats) uint64) {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "secretbroker_store_" + name, Help: help, ConstLabels: labels},
			func() float64 { return float64(read(stores.Stats(kind))) }))
	}
	gauge := func(name, help string, read func(provider.Stats) int64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "secretbroker_store_" + name, Help: help, ConstLabels: labels},
			func() float64 { return float64(read(stores.Stats(kind))) }))
	}
	counter("throttled_total", "Reads that a store throttled.", func(s provider.Stats) uint64 { return s.Throttled })
	counter("reads_refused_total", "Reads that the broker refused because they could not start before their deadline, or because the caller's share of the queue was full.", func(s provider.Stats) uint64 { return s.Refused })
	counter("breaker_opens_total", "Times the circuit breaker opened for a store.", func(s provider.Stats) uint64 { return s.Trips })
	gauge("breakers_open", "Stores whose circuit breaker is not closed; the log names them.", func(s provider.Stats) int64 { return s.Unanswering })
	gauge("reads_waiting", "Reads in the queue of a store.", func(s provider.Stats) int64 { return s.Waiting })
	gauge("reads_running", "Reads of stores in progress.", func(s provider.Stats) int64 { return s.Reading })
}

// watchMemory reads the memory budgets at each scrape.
func (m *metrics) watchMemory(b budgets) {
	for use, of := range map[string]*budget.Budget{"calls": b.calls, "reads": b.reads} {
		labels := prometheus.Labels{"use": use}
		gauge := func(name, help string, read func(budget.Stats) float64) {
			m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "secretbroker_memory_" + name, Help: help, ConstLabels: labels},
				func() float64 { return read(of.Stats()) }))
		}
		gauge("budget_bytes", "Memory budget for calls or reads of stores in progress.", func(s budget.Stats) float64 { return float64(s.Total) })
		gauge("used_bytes", "Estimated memory in use by calls or reads of stores in progress.", func(s budget.Stats) float64 { return float64(s.Used) })
		gauge("waiting", "Reads of stores that wait for memory.", func(s budget.Stats) float64 { return float64(s.Waiting) })
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "secretbroker_memory_refused_total", Help: "Values and reads of stores that were refused because the memory budget was exhausted.", ConstLabels: labels,
		}, func() float64 { return float64(of.Stats().Refused) }))
	}
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
	counter("paced_total", "Requests that had to wait because the secret was read within the minimum interval.", func(s cache.Stats) uint64 { return s.Paced })
	counter("refreshes_total", "Reads that refreshed a value before its expiry.", func(s cache.Stats) uint64 { return s.Refreshes })
	counter("load_failures_total", "Reads that failed.", func(s cache.Stats) uint64 { return s.LoadFailures })
	counter("dropped_sets_total", "Values read but not kept because the cache was too busy.", func(s cache.Stats) uint64 { return s.DroppedSets })
	counter("rejected_sets_total", "Values read but not kept because the cache is too small for the working set; if this grows, raise cache.max_bytes.", func(s cache.Stats) uint64 { return s.RejectedSets })
	counter("evictions_total", "Values evicted because the cache was full; if this grows, raise cache.max_bytes.", func(s cache.Stats) uint64 { return s.Evictions })
	gauge("entries", "Values in memory.", func(s cache.Stats) int64 { return s.Entries })
	gauge("bytes", "Estimated memory of cached values.", func(s cache.Stats) int64 { return s.Bytes })
}

// watchValidation exports the number of integrations that passed and failed their last
// validation.
func (m *metrics) watchValidation(w *manage.Watcher) {
	gauge := func(result string, read func() int) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "secretbroker_integrations_validated",
			Help:        "Integrations by result of their last validation (management.validate_every); /readyz lists the failures.",
			ConstLabels: prometheus.Labels{"result": result},
		}, func() float64 { return float64(read()) }))
	}
	gauge("ok", func() int { ok, _ := w.Counts(); return ok })
	gauge("failed", func() int { _, failed := w.Counts(); return failed })
}
