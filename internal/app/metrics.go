package app

import (
	"runtime"
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
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/usage"
)

// metrics exports the counters of the parts that do not depend on a metrics library. No
// label contains a reference, a secret's name, an integration or a principal.
type metrics struct {
	registry     *prometheus.Registry
	configs      *prometheus.CounterVec
	resolveOK    prometheus.Counter // of configs; the lookup would take longer than the increment
	checkOK      prometheus.Counter // of configs
	storeReads   *prometheus.CounterVec
	storeSeconds *prometheus.HistogramVec
}

func newMetrics(reg *prometheus.Registry) *metrics {
	m := &metrics{
		registry: reg,
		configs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "secretbroker_configs_total",
			Help: "Configs of Resolve, Check, Watch and Refresh calls by result: OK or a reason of docs/errors.md. A call that fails as a whole counts as one config. The answer may then wait for the audit log.",
		}, []string{"method", "reason"}),
		storeReads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "secretbroker_store_reads_total",
			Help: "Reads of secret stores, by kind and by result: OK or a reason of docs/errors.md.",
		}, []string{"kind", "reason"}),
		storeSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "secretbroker_store_read_duration_seconds",
			Help:    "Duration of reads of secret stores, by kind.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"kind"}),
	}
	m.resolveOK = m.configs.WithLabelValues(resolve.MethodResolve, reasonLabel(""))
	m.checkOK = m.configs.WithLabelValues(resolve.MethodCheck, reasonLabel(""))
	reg.MustRegister(m.configs, m.storeReads, m.storeSeconds)
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "secretbroker_build_info",
		Help:        "Always 1; the labels are the versions of the broker and of Go.",
		ConstLabels: prometheus.Labels{"version": buildVersion(), "goversion": runtime.Version()},
	})
	info.Set(1)
	reg.MustRegister(info)
	return m
}

// config counts a config of a call of resolve.MethodResolve or resolve.MethodCheck.
func (m *metrics) config(method string, r secret.Reason) {
	switch {
	case r == "" && method == resolve.MethodResolve:
		m.resolveOK.Inc()
	case r == "" && method == resolve.MethodCheck:
		m.checkOK.Inc()
	default:
		m.configs.WithLabelValues(method, reasonLabel(r)).Inc()
	}
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
	gauge := func(state string, count func() int) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "secretbroker_integrations",
			Help:        "Integrations by state: serving, or faulty if the stored file or document is invalid and therefore not in effect; /readyz lists the faulty ones.",
			ConstLabels: prometheus.Labels{"state": state},
		}, func() float64 { return float64(count()) }))
	}
	gauge("serving", func() int { return len(store.List()) })
	gauge("faulty", func() int { return len(store.Faults()) })
	m.watchRegistry(store)
}

// watchRegistry exports the state of the source of integrations, a database or a directory.
func (m *metrics) watchRegistry(store registry.Store) {
	gauge := func(name, help string, read func(registry.Status) float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "secretbroker_registry_" + name, Help: help},
			func() float64 { return read(store.Status()) }))
	}
	gauge("up", "1 while the broker can read the database or the directory of integrations. At 0 no change takes effect, not even a revocation.",
		func(s registry.Status) float64 { return gaugeOf(s.Problem == "") })
	gauge("age_seconds", "Time since the broker last read the database or the directory of integrations completely. The integrations in effect are those that it found then.",
		func(s registry.Status) float64 { return max(0, elapsed.Between(s.SeenAt, time.Now()).Seconds()) })
	if store.Status().Writable {
		gauge("writes_up", "1 while the database of integrations accepts writes, which the broker tests every 10 s. At 0 no grant can be revoked. Absent if integrations are files.",
			func(s registry.Status) float64 { return gaugeOf(s.WriteProblem == "") })
	} else {
		gauge("held_integrations", "Integrations that remain in effect for 5 minutes although their files vanished, because several vanished together. Absent if integrations are in a database.",
			func(s registry.Status) float64 { return float64(s.Held) })
	}
}

func gaugeOf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// watchUsage exports the counters of the usage recorder, and since when its store has usage.
func (m *metrics) watchUsage(r *usage.Recorder, s *integrationStore) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "secretbroker_usage_recorded_since_timestamp_seconds",
		Help: "Unix time since which uses of integrations are recorded and kept.",
	}, func() float64 { return float64(s.usage.Recording().Since.Unix()) }), prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "secretbroker_usage_databases_replaced_total",
		Help: "Databases with the usage of integrations in files that were damaged or removed, so that recording began again.",
	}, func() float64 {
		if s.usageFile == nil {
			return 0
		}
		return float64(s.usageFile.Replaced())
	}))
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
	counter("batches_total", "Commits of the audit log. secretbroker_audit_records_total divided by it is the average number of records of a commit.", nil, func(s audit.Stats) uint64 { return s.Batches })
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "secretbroker_audit_write_seconds_total",
		Help: "Total duration of the audit log's commits. Divided by secretbroker_audit_batches_total it is the average duration of a commit, for which answers wait.",
	}, func() float64 { return l.Stats().WriteTime.Seconds() }))
	counter("failures_total", "Calls that failed because their records could not be written.", nil, func(s audit.Stats) uint64 { return s.Failures })
	counter("refusals_counted_total", "Refused calls without an audit record of their own because their principal had too many; a record that counts several includes them.", nil, func(audit.Stats) uint64 { return limiter.Counted() })
	gauge("queue_bytes", "Bytes queued for the audit log's file or pipe.", nil, func() float64 { return float64(l.Stats().QueueBytes) })
	gauge("sequence", "Number of the audit log's last record. It falls only when a new chain begins.", nil, func() float64 { return float64(l.Head().Seq) })
	for i := range copies {
		labels := prometheus.Labels{"copy": strconv.Itoa(i)}
		counter("copy_sent_total", "Audit records written to the connection of a copy. The label copy is its index in audit.copies.", labels, func(s audit.Stats) uint64 { return s.Copies[i].Sent })
		counter("copy_dropped_total", "Audit records that were not sent to a copy because it was absent or too slow; the file has them.", labels, func(s audit.Stats) uint64 { return s.Copies[i].Dropped })
		gauge("copy_queue_bytes", "Bytes queued for the connection of a copy.", labels, func() float64 { return float64(l.Stats().Copies[i].QueueBytes) })
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
		gauge("budget_bytes", "Memory budget for calls in progress (calls) or for reads of stores in progress (reads).", func(s budget.Stats) float64 { return float64(s.Total) })
		gauge("used_bytes", "Estimated memory of calls in progress or of reads of stores in progress.", func(s budget.Stats) float64 { return float64(s.Used) })
		gauge("waiting", "Reads of stores that wait for memory; always 0 for calls, which do not wait.", func(s budget.Stats) float64 { return float64(s.Waiting) })
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "secretbroker_memory_refused_total", Help: "Values of calls, or reads of stores, that were refused because the memory budget was exhausted.", ConstLabels: labels,
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
	lookups := func(result string, read func(cache.Stats) uint64) {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name:        "secretbroker_cache_lookups_total",
			Help:        "Lookups of secrets by result: hit (in memory), miss (started a read of the store), shared (joined the read of another call), or failure (the cached failure of an earlier read).",
			ConstLabels: prometheus.Labels{"result": result},
		}, func() float64 { return float64(read(c.Stats())) }))
	}
	lookups("hit", func(s cache.Stats) uint64 { return s.Hits })
	lookups("miss", func(s cache.Stats) uint64 { return s.Misses })
	lookups("shared", func(s cache.Stats) uint64 { return s.Shared })
	lookups("failure", func(s cache.Stats) uint64 { return s.NegativeHits })
	counter("stale_answers_total", "Lookups answered with an expired value because of an outage. secretbroker_cache_lookups_total counts them as well, by what they found first.", func(s cache.Stats) uint64 { return s.StaleAnswers })
	counter("paced_total", "Lookups with max_age or not_read_before that had to wait because the secret had been read less than a second before.", func(s cache.Stats) uint64 { return s.Paced })
	counter("refreshes_total", "Reads of stores in the background that refreshed a value before its expiry.", func(s cache.Stats) uint64 { return s.Refreshes })
	counter("load_failures_total", "Reads of stores for the cache that failed.", func(s cache.Stats) uint64 { return s.LoadFailures })
	counter("dropped_sets_total", "Values that were read but not cached because the cache was too busy.", func(s cache.Stats) uint64 { return s.DroppedSets })
	counter("rejected_sets_total", "Values that were read but not cached because the cache is too small for the working set. If it grows, raise cache.max_bytes.", func(s cache.Stats) uint64 { return s.RejectedSets })
	counter("evictions_total", "Values that were evicted because the cache was full. If it grows, raise cache.max_bytes.", func(s cache.Stats) uint64 { return s.Evictions })
	gauge("entries", "Values in memory.", func(s cache.Stats) int64 { return s.Entries })
	gauge("bytes", "Estimated memory of cached values.", func(s cache.Stats) int64 { return s.Bytes })
}

// watchValidation exports the number of integrations that passed and failed their last
// validation.
func (m *metrics) watchValidation(w *manage.Watcher) {
	gauge := func(result string, read func() int) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "secretbroker_integrations_validated",
			Help:        "Integrations by result of their last validation: ok or failed; /readyz lists the failures.",
			ConstLabels: prometheus.Labels{"result": result},
		}, func() float64 { return float64(read()) }))
	}
	gauge("ok", func() int { ok, _ := w.Counts(); return ok })
	gauge("failed", func() int { _, failed := w.Counts(); return failed })
}
