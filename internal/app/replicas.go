package app

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/replica"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/server"
	"github.com/secretbroker/secretbroker/internal/watch"
)

// replicas connects the other parts with the replica.Tracker, which shares what this replica
// has read with the others. Without a database for several replicas there is no Tracker.
type replicas struct {
	tracker *replica.Tracker // nil until start, and without such a database
}

// superseded is a cache.Config.Superseded.
func (r *replicas) superseded(k *cache.Key, version string, readAt time.Time) bool {
	return r.tracker != nil && r.tracker.Superseded(replica.Key{Integration: k.Integration, Store: k.Store, Name: k.Name, Version: k.Version}, version, readAt)
}

// readWatched is a watch.Config.Share.
func (r *replicas) readWatched(k watch.Key, scheme, version string, readAt time.Time, interval time.Duration) watch.Turn {
	switch {
	case r.tracker == nil, scheme == replica.SchemeNone:
		return watch.Alone
	case r.tracker.ReadWatched(replica.Key(k), scheme, version, readAt, interval):
		return watch.Mine
	default:
		return watch.Others
	}
}

// start creates the lease of this replica, before it reads a secret. The name is that of
// the replica; scheme is as in replica.Config.
func (r *replicas) start(ctx context.Context, c replica.Config, integrations registry.Store, values *cache.Cache, hub *watch.Hub, receiver *eventing) error {
	c.Drop = func(k replica.Key, old func(string, time.Time) bool) bool {
		in, err := integrations.Get(k.Integration)
		switch {
		case err == nil:
			return values.Drop(cache.Key{Integration: k.Integration, Revision: in.ReadRevision, Store: k.Store, Name: k.Name, Version: k.Version}, old)
		case errors.Is(err, registry.ErrNotFound):
			return false
		default: // it is not known how the integration reads
			values.DropAll()
			return true
		}
	}
	c.DropAll = values.DropAll
	c.Hint = func(k replica.Key, version string) {
		receiver.SeenElsewhere(k.Integration, k.Store, k.Name)
		hub.Seen(cache.Key{Integration: k.Integration, Store: k.Store, Name: k.Name, Version: k.Version}, version)
	}
	c.Fresh = func(k replica.Key, version string, began time.Time) {
		hub.ReadElsewhere(cache.Key{Integration: k.Integration, Store: k.Store, Name: k.Name, Version: k.Version}, version, began)
	}
	t := replica.New(c)
	ctx, cancel := context.WithTimeout(ctx, databaseTime)
	defer cancel()
	if err := t.Start(ctx); err != nil {
		return err
	}
	r.tracker = t
	return nil
}

// run follows the other replicas until ctx ends.
func (r *replicas) run(ctx context.Context) error {
	if r.tracker == nil {
		<-ctx.Done()
		return nil
	}
	return r.tracker.Run(ctx)
}

// shared returns the resolve.Replicas, nil if there are none.
func (r *replicas) shared() resolve.Replicas {
	if r.tracker == nil {
		return nil
	}
	return r.tracker
}

// readRevisions remembers how each integration reads. It is safe for concurrent use.
type readRevisions struct {
	mu sync.Mutex
	of map[string]string
}

// start takes over the integrations at the start.
func (r *readRevisions) start(all []*integration.Integration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil {
		r.of = make(map[string]string, len(all))
	}
	for _, in := range all {
		if _, known := r.of[in.ID]; !known { // otherwise it has changed since
			r.of[in.ID] = in.ReadRevision
		}
	}
}

// changed takes over changes, and returns the ReadRevision of each integration that reads
// differently, "" for those that were removed.
func (r *readRevisions) changed(removed, changed []*integration.Integration) map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil {
		r.of = make(map[string]string)
	}
	differ := make(map[string]string)
	for _, in := range removed {
		delete(r.of, in.ID)
		differ[in.ID] = ""
	}
	for _, in := range changed {
		if before, known := r.of[in.ID]; known && before != in.ReadRevision {
			differ[in.ID] = in.ReadRevision
		}
		r.of[in.ID] = in.ReadRevision
	}
	return differ
}

// leased returns the integrations while this replica has a lease.
func (r *replicas) leased(of resolve.Integrations) resolve.Integrations {
	if r.tracker == nil {
		return of
	}
	return leasedIntegrations{of, r.tracker}
}

// leasedIntegrations is unavailable without a lease: other replicas believe then that this
// one does not answer calls.
type leasedIntegrations struct {
	resolve.Integrations
	tracker *replica.Tracker
}

func (l leasedIntegrations) Get(id string) (*integration.Integration, error) {
	if l.tracker.Detached() { // also for an integration that does not exist: the two look alike
		return nil, registry.ErrUnavailable
	}
	return l.Integrations.Get(id)
}

// refuses reports whether calls are refused.
func (r *replicas) refuses() bool { return r.tracker != nil && r.tracker.Detached() }

// problems returns what the operator has to know.
func (r *replicas) problems() []server.Problem {
	if r.tracker == nil {
		return nil
	}
	if failing := r.tracker.Stats().Problems; len(failing) > 0 {
		return []server.Problem{{Component: "replicas", Reason: "READS_NOT_SHARED", Message: strings.Join(failing, "; ")}}
	}
	return nil
}

// versionScheme is the scheme of the versions that a key computes: replicas with another key
// compute others.
func versionScheme(key *provider.VersionKey) string {
	if key == nil {
		return ""
	}
	return "key " + key.Fingerprint()
}

// replicaName returns the name of the replica that listens on an address.
func replicaName(listen string) string {
	host, err := os.Hostname()
	if err != nil {
		return listen
	}
	return host + " " + listen
}

// watchReplicas exports what replicas share, and returns an observer for
// replica.Config.Lag.
func (m *metrics) watchReplicas(r *replicas) func(time.Duration) {
	lag := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "secretbroker_replica_lag_seconds",
		Help:    "Time from the end of another replica's read that saw a new version until this replica had dropped what it superseded.",
		Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
	})
	stats := func() (s replica.Stats) {
		if r.tracker != nil {
			s = r.tracker.Stats()
		}
		return s
	}
	gauge := func(name, help string, read func(replica.Stats) float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "secretbroker_replica_" + name, Help: help}, func() float64 { return read(stats()) }))
	}
	counter := func(name, help string, read func(replica.Stats) uint64) {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "secretbroker_replica_" + name + "_total", Help: help}, func() float64 { return float64(read(stats())) }))
	}
	gauge("sightings", "Secrets whose last seen version this replica knows from the database; 0 without PostgreSQL.", func(s replica.Stats) float64 { return float64(s.Rows) })
	gauge("pending", "Versions that this replica has seen and that are not in the database yet.", func(s replica.Stats) float64 { return float64(s.Pending) })
	gauge("poll_age_seconds", "Time since this replica last read what others have seen; 0 without PostgreSQL.", func(s replica.Stats) float64 {
		if s.PolledAt.IsZero() {
			return 0
		}
		return time.Since(s.PolledAt).Seconds()
	})
	counter("writes", "Versions that this replica has written to the database.", func(s replica.Stats) uint64 { return s.Writes })
	counter("dropped", "Cached values dropped because another replica has seen a later state.", func(s replica.Stats) uint64 { return s.Dropped })
	counter("delayed", "Drops that were delayed because there were too many of one secret: its store returns versions in turns.", func(s replica.Stats) uint64 { return s.Delayed })
	counter("lost", "Versions that were not written because too many were pending.", func(s replica.Stats) uint64 { return s.Lost })
	counter("unacknowledged", "Replicas that did not acknowledge a Refresh of this one.", func(s replica.Stats) uint64 { return s.Unacknowledged })
	m.registry.MustRegister(lag)
	return func(d time.Duration) { lag.Observe(d.Seconds()) }
}
