package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/events"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/manage"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/provider/task"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/server"
	"github.com/secretbroker/secretbroker/internal/watch"
)

// eventing connects the Receiver of the events of stores with the other parts.
type eventing struct {
	*events.Receiver
	openers map[secret.Kind]provider.EventOpener
	// shared is whether other replicas receive from the same queues; set before Run.
	shared  bool
	replica string
}

// newEventing returns the Receiver, with the central sources of the configuration. openers
// replace those of the kinds if they are not nil.
func newEventing(cfg *config.Config, m *metrics, openers map[secret.Kind]provider.EventOpener, log *slog.Logger) (*eventing, error) {
	if openers == nil {
		openers = kinds.EventOpeners(provider.Config{Logger: log})
	}
	e := &eventing{openers: openers, replica: replicaName(cfg.Listen)}
	e.Receiver = events.New(events.Config{
		Openers: openers, Logger: log, Delivered: m.eventsDelivered(), SharedQueues: func() bool { return e.shared },
	})
	central, err := centralSources(cfg.Events.Sources, openers)
	if err != nil {
		return nil, &exitError{Code: exitUsage, Err: err}
	}
	e.SetCentral(central)
	m.watchEvents(e.Receiver)
	return e, nil
}

// use sets what the Receiver reads and by what.
func (e *eventing) use(integrations resolve.Integrations, hub *watch.Hub, values *cache.Cache, others *replicas, resolver *resolve.Resolver) {
	holdings := &events.Holdings{Hub: hub, Cache: values}
	if others.tracker != nil {
		holdings.Known = others.tracker.Known
		e.shared = true
	}
	e.Use(integrations, holdings, resolver)
}

// centralSources reads the files of the sources for many integrations.
func centralSources(sources []config.EventSource, openers map[secret.Kind]provider.EventOpener) ([]events.Central, error) {
	var all []events.Central
	var faults []error
	known := make(map[string]string) // file by id
	for i := range sources {
		path := sources[i].File
		in, err := kinds.All().ReadEventSource(path)
		switch {
		case err != nil:
			faults = append(faults, err)
		case in.Kind == secret.KindLocalFile || openers[in.Kind] == nil:
			faults = append(faults, fmt.Errorf("%s: kind: this kind of store has no source of events for many integrations", path))
		case known[in.ID] != "":
			faults = append(faults, fmt.Errorf("%s: id: the id is also that of %s", path, known[in.ID]))
		default:
			known[in.ID] = path
			all = append(all, events.Central{Integration: in, For: sources[i].For})
		}
	}
	return all, errors.Join(faults...)
}

// problems returns the problems with sources, for /readyz.
func (e *eventing) problems() []server.Problem {
	var all []server.Problem
	for _, p := range e.Problems() {
		all = append(all, server.Problem{Component: "events", Reason: p.Reason, Message: p.Message})
	}
	return all
}

// of returns the states of the sources of an integration's events, for those who manage it.
func (e *eventing) of(in *integration.Integration) []manage.EventSource {
	var all []manage.EventSource
	for _, s := range e.StatusOf(in) {
		out := shown(&s)
		out.Replica = e.replica
		all = append(all, out)
	}
	return all
}

// shown returns what those who manage an integration see of a source of its events. The
// numbers of a central source are about other integrations as well, so they do not see them.
func shown(s *events.Status) manage.EventSource {
	out := manage.EventSource{State: stateOf(s), Problem: s.Problem, ProblemSince: s.Since, PolledAt: s.PolledAt, EventAt: s.EventAt, Delivery: s.Delivery}
	if s.Central {
		out.OperatorID = s.IntegrationID
		if out.Problem != "" {
			out.Problem = "the source fails; the operator sees why in the log and in /readyz"
		}
		return out
	}
	out.Name, out.Missed, out.MissedAt = s.Name, s.Missed, s.MissedAt
	out.Counts = make(map[string]uint64)
	for _, o := range events.Outcomes {
		if n := s.Counts[o]; n > 0 {
			out.Counts[o.String()] = n
		}
	}
	return out
}

func stateOf(s *events.Status) manage.EventState {
	switch {
	case s.Problem != "":
		return manage.EventsFailing
	case s.Silent:
		return manage.EventsSilent
	case s.PolledAt.IsZero():
		return manage.EventsStarting
	default:
		return manage.EventsWorking
	}
}

// validating adds the steps that check an integration's source of events to those of
// validate.
func (e *eventing) validating(validate func(context.Context, *integration.Integration) []provider.Step) func(context.Context, *integration.Integration) []provider.Step {
	return func(ctx context.Context, in *integration.Integration) []provider.Step {
		steps := validate(ctx, in)
		open := e.openers[in.Kind]
		if in.EventSource() == "" || open == nil {
			return steps
		}
		steps = append(steps, checkSource(ctx, in, open)...)
		if !e.shared && in.Kind != secret.KindLocalFile {
			steps = append(steps, provider.Step{Step: provider.StepEvents, Store: in.EventSource(), Unchecked: true,
				Found: "unknown: whether other replicas receive from this queue. Without a PostgreSQL database each replica needs a queue of its own, because a replica does not tell the others what it has received"})
		}
		return steps
	}
}

// checkSource opens an integration's source of events and checks it.
func checkSource(ctx context.Context, in *integration.Integration, open provider.EventOpener) (steps []provider.Step) {
	err := task.Contain(func() error {
		source, err := open(ctx, in)
		if err != nil {
			return err
		}
		defer func() { _ = source.Close() }()
		steps = source.Check(ctx)
		return nil
	})
	if err != nil {
		steps = append(steps, provider.Step{Step: provider.StepEvents, Store: in.EventSource(), Err: secret.AsError(err)})
	}
	return steps
}

// eventsDelivered returns an observer for events.Config.Delivered.
func (m *metrics) eventsDelivered() func(time.Duration) {
	delivery := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "secretbroker_event_delivery_seconds",
		Help:    "Time from when a message was put into the queue of a source of events until the broker received it.",
		Buckets: []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 3600},
	})
	m.registry.MustRegister(delivery)
	return func(d time.Duration) { delivery.Observe(d.Seconds()) }
}

// watchEvents exports the state of the sources of events at each scrape.
func (m *metrics) watchEvents(r *events.Receiver) {
	for _, state := range []manage.EventState{manage.EventsStarting, manage.EventsWorking, manage.EventsFailing, manage.EventsSilent} {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "secretbroker_event_sources",
			Help:        "Queues of events by state: STARTING, WORKING, FAILING, or SILENT if no event arrived about the last changes of watched secrets. /readyz lists those that are FAILING and SILENT.",
			ConstLabels: prometheus.Labels{"state": string(state)},
		}, func() (n float64) {
			for _, s := range r.Status() {
				if !s.Local && stateOf(&s) == state {
					n++
				}
			}
			return n
		}))
	}
	for _, outcome := range events.Outcomes {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name:        "secretbroker_events_total",
			Help:        "Events by outcome: read (caused a read or joined one), known (the version was known), not_held, foreign_store, ignored (does not concern values), not_understood; and failed, for reads that never succeeded or never returned the version of the event.",
			ConstLabels: prometheus.Labels{"outcome": outcome.String()},
		}, func() float64 { counts, _ := r.Totals(); return float64(counts[outcome]) }))
	}
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "secretbroker_events_missed_total",
		Help: "Changes of watched secrets for which no event arrived within two minutes although the source worked.",
	}, func() float64 { _, missed := r.Totals(); return float64(missed) }))
}
