package campaign

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/connectmap"
)

// The waits of an engine.
const (
	// defaultPoll is the time between two looks at a cluster.
	defaultPoll = 2 * time.Second
	// conflictWait is the wait after a 409 or while a cluster or the broker does not answer.
	conflictWait = 10 * time.Second
	// retryWait is the wait before a restart is repeated that may or may not have arrived.
	retryWait = 30 * time.Second
	// maxAttempts limits these.
	maxAttempts = 3
	// failedTime is how long FAILED must last: the state may be of the time before the
	// restart, which Connect begins some time after it has accepted it.
	failedTime = 10 * time.Second
)

// Config configures an Engine. All fields except Poll, Logger and Changed are required.
type Config struct {
	// Clusters are by name. Those of all connectors must be in it.
	Clusters map[string]Cluster
	Broker   Broker
	Store    Store
	// Selects selects the references that the campaign is about.
	Selects func(*connectmap.Use) bool
	// Poll is the time between two looks at a cluster; zero means 2 s.
	Poll time.Duration
	// Logger receives steps and problems. Nil discards them.
	Logger *slog.Logger
	// Changed, if not nil, is called after a connector has changed its state, with a copy.
	// Calls are serialized.
	Changed func(Connector)
}

// Engine runs one campaign. It is safe for concurrent use.
type Engine struct {
	cfg Config

	mu      sync.Mutex // guards everything below, and the campaign
	c       *Campaign
	paused  bool
	halted  string // why; "" if not
	aborted bool
	// attempts are the times of the restarts of each cluster within the last hour.
	attempts map[string][]time.Time
	// latest are the versions that the broker read last, by integration and reference.
	latest map[[2]string]string
}

// NewEngine makes an engine for a campaign, which belongs to it. A campaign that another
// engine has stored goes on where it was.
func NewEngine(cfg Config, c *Campaign) (*Engine, error) {
	if cfg.Poll == 0 {
		cfg.Poll = defaultPoll
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	e := &Engine{cfg: cfg, c: c, attempts: make(map[string][]time.Time), latest: make(map[[2]string]string), paused: c.State == Paused}
	for _, it := range c.Connectors {
		cluster, ok := cfg.Clusters[it.Cluster]
		if it.State == Skipped {
			continue
		}
		if !ok || cluster.Settings.Restarts == nil {
			return nil, fmt.Errorf("campaign: no cluster %q that allows restarts", it.Cluster)
		}
		if it.Attempts > 0 {
			e.attempts[it.Cluster] = append(e.attempts[it.Cluster], it.AttemptTime)
		}
		if c.haltedBy(it) {
			e.halted = c.haltReason(it)
		}
	}
	for _, times := range e.attempts {
		slices.SortFunc(times, time.Time.Compare)
	}
	return e, nil
}

// Campaign returns a copy of the campaign.
func (e *Engine) Campaign() *Campaign {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.c.Clone()
}

// Pause stops restarts until Resume. Connectors that were restarted are observed until
// their proof.
func (e *Engine) Pause() { e.locked(func() { e.paused = true }) }

// Resume ends Pause.
func (e *Engine) Resume() { e.locked(func() { e.paused = false }) }

// Abort stops restarts for good. Run returns when the connectors that were restarted are
// proved or not.
func (e *Engine) Abort() { e.locked(func() { e.aborted = true }) }

func (e *Engine) locked(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}

// Run runs the campaign to a final state, or until ctx ends. Then the campaign can go on
// later. The error is that of ctx, or of the store at the end.
func (e *Engine) Run(ctx context.Context) error {
	if e.c.State.Final() {
		return nil
	}
	var clusters sync.WaitGroup
	for name := range e.cfg.Clusters {
		clusters.Go(func() { e.runCluster(ctx, name) })
	}
	clusters.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.finish()
	return e.cfg.Store.Save(ctx, e.c.Clone())
}

// runCluster restarts and observes the connectors of one cluster, one after the other, so
// that a cluster that hangs delays itself only.
func (e *Engine) runCluster(ctx context.Context, name string) {
	tick := time.NewTicker(e.cfg.Poll)
	defer tick.Stop()
	for {
		for _, it := range e.inState(name, Running) {
			e.observe(ctx, name, it)
		}
		// One at a time, so that no storm of requests meets a cluster or a broker that fails.
		if it := e.next(name, time.Now()); it != nil {
			e.start(ctx, name, it)
		}
		if e.done(ctx, name) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (e *Engine) inState(cluster string, s State) []*Connector {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []*Connector
	for _, it := range e.c.Connectors {
		if it.Cluster == cluster && it.State == s {
			list = append(list, it)
		}
	}
	return list
}

// done reports whether nothing remains to be done in a cluster.
func (e *Engine) done(ctx context.Context, cluster string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	before := e.c.State
	switch {
	case e.aborted || e.halted != "":
	case e.paused:
		e.c.State = Paused
	default:
		e.c.State = Running
	}
	if e.c.State != before {
		if err := e.cfg.Store.Save(ctx, e.c.Clone()); err != nil {
			e.cfg.Logger.Warn("cannot store the campaign", "error", err)
		}
	}
	for _, it := range e.c.Connectors {
		if it.Cluster == cluster && (it.State == Running || it.State == Pending && !e.aborted && e.halted == "") {
			return false
		}
	}
	return true
}

// next returns the connector of a cluster that may be restarted now, nil if there is none.
func (e *Engine) next(cluster string, now time.Time) *Connector {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.paused || e.aborted || e.halted != "" {
		return nil
	}
	canary, proved := e.c.canary()
	for _, it := range e.c.Connectors {
		if it.Cluster != cluster || it.State != Pending || now.Before(it.NotBefore) {
			continue
		}
		if !proved && it != canary {
			it.Reason = "waits for the proof of the canary"
			continue
		}
		if it.Reason = e.limited(cluster, now); it.Reason != "" {
			return nil
		}
		return it
	}
	return nil
}

// limited says which limit of a cluster forbids a restart now, "" if none does.
func (e *Engine) limited(cluster string, now time.Time) string {
	r := e.cfg.Clusters[cluster].Settings.Restarts
	running := 0
	for _, it := range e.c.Connectors {
		if it.Cluster == cluster && it.State == Running {
			running++
		}
	}
	times := slices.DeleteFunc(e.attempts[cluster], func(t time.Time) bool { return now.Sub(t) >= time.Hour })
	e.attempts[cluster] = times
	switch {
	case running >= r.MaxParallel:
		return "waits for the proof of others (max_parallel)"
	case len(times) > 0 && now.Sub(times[len(times)-1]) < time.Duration(r.MinInterval):
		return "waits after the restart of another (min_interval)"
	case len(times) >= r.PerHour:
		return "waits for the budget of the hour (per_hour)"
	}
	if open := r.Open(now); !open.Equal(now) {
		return "waits for a window, which opens at " + open.UTC().Format(time.RFC3339)
	}
	return ""
}

// set changes the state of a connector, and stores the campaign.
func (e *Engine) set(ctx context.Context, it *Connector, change func(it *Connector)) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	before := it.State
	change(it)
	if e.c.haltedBy(it) && e.halted == "" {
		e.halted = e.c.haltReason(it)
	}
	err := e.cfg.Store.Save(ctx, e.c.Clone())
	if err != nil {
		e.cfg.Logger.Warn("cannot store the campaign", "error", err)
	}
	if it.State != before {
		e.cfg.Logger.Info("connector", "cluster", it.Cluster, "connector", it.Name, "state", string(it.State), "reason", it.Reason)
		if e.cfg.Changed != nil {
			e.cfg.Changed(*it.clone())
		}
	}
	return err
}

// wait leaves a connector Pending, and says why.
func (e *Engine) wait(it *Connector, after time.Duration, reason string) {
	e.locked(func() { it.NotBefore, it.Reason = time.Now().Add(after), reason })
}

// haltedBy reports whether the state of a connector halts the campaign. Without its canary
// nothing is known of the new version, and the failure of a connector that had failed before
// says nothing of it, unless the rotation was to repair it.
func (c *Campaign) haltedBy(it *Connector) bool {
	if it.Canary {
		return it.State == Failed || it.State == Stalled
	}
	return it.State == Failed && (c.SingleUser || !it.FailedBefore)
}

// haltReason says what happened and what to do.
func (c *Campaign) haltReason(it *Connector) string {
	pending := 0
	for _, other := range c.Connectors {
		if other.State == Pending {
			pending++
		}
	}
	what, happened := "connector", "failed with the new version: "+it.Reason
	if it.Canary {
		what = "the canary"
	}
	if it.State == Stalled {
		happened = "is not proved; missing: " + strings.Join(it.Missing, ", ")
	}
	return fmt.Sprintf("%s %s of cluster %s %s; %d connectors were not restarted and keep the version they have; "+
		"the log of the worker has the cause; correct the secret or the connector, or make the previous version the current one in the store, and run the rotation again",
		what, it.Name, it.Cluster, happened, pending)
}

var errSuperseded = errors.New("the secret was changed again during the campaign; run the rotation again")

// finish sets the final state.
func (e *Engine) finish() {
	e.c.EndTime = time.Now()
	worst := Verified
	for _, it := range e.c.Connectors {
		for _, r := range it.References {
			if latest := e.latest[[2]string{r.Integration, r.Reference}]; it.State == Verified && latest != "" && latest != r.Version {
				it.State, it.Missing = Stalled, []string{errSuperseded.Error()}
			}
		}
		if it.State == Stalled || it.State == Failed {
			worst = Stalled
		}
	}
	switch {
	case e.halted != "":
		e.c.State, e.c.Reason = Halted, e.halted
	case e.aborted:
		e.c.State, e.c.Reason = Aborted, "it was aborted"
	default:
		e.c.State = worst
	}
}
