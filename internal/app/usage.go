package app

import (
	"context"
	"log/slog"
	"math"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/secretbroker/secretbroker/internal/usage"
)

const (
	// outdatedInterval is the time between two counts of outdated uses, which read the whole
	// usage, and outdatedTime limits one of them.
	outdatedInterval = time.Minute
	outdatedTime     = 10 * time.Second
)

// newUses returns what records usage and what counts outdated uses. replica names this one.
func (m *metrics) newUses(integrations *integrationStore, replica string, log *slog.Logger) (*usage.Recorder, *outdatedUses) {
	uses := usage.New(usage.Config{Store: integrations.usage, Replica: replica, Logger: log})
	m.watchUsage(uses, integrations)
	outdated := &outdatedUses{integrations: integrations, log: log}
	m.watchOutdated(outdated)
	return uses, outdated
}

// outdatedUses counts the uses that have not read the current version of their secret.
type outdatedUses struct {
	integrations *integrationStore
	log          *slog.Logger
	last         atomic.Pointer[usage.Outdated] // nil until the first count
}

// watchOutdated exports the last count.
func (m *metrics) watchOutdated(u *outdatedUses) {
	gauge := func(name, help string, read func(*usage.Outdated) int) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "secretbroker_usage_outdated_" + name, Help: help}, func() float64 {
			if last := u.last.Load(); last != nil {
				return float64(read(last))
			}
			return math.NaN()
		}))
	}
	gauge("uses", "Uses of secrets whose last version is not the one that the broker has read last from the store, counted once per minute; NaN before the first count. Replicas with a database count the same uses.",
		func(o *usage.Outdated) int { return o.Uses })
	gauge("secrets", "Secrets with such uses, each as one integration reads it.", func(o *usage.Outdated) int { return o.Secrets })
}

// run counts until ctx ends.
func (u *outdatedUses) run(ctx context.Context) error {
	failing := false
	for {
		counting, cancel := context.WithTimeout(ctx, outdatedTime)
		counts, err := usage.CountOutdated(counting, u.integrations.usage, u.canonical)
		cancel()
		switch {
		case err == nil:
			u.last.Store(&counts)
		case ctx.Err() == nil && !failing:
			u.log.Warn("outdated uses cannot be counted; retrying", "error", err)
		}
		failing = err != nil
		wait(ctx, outdatedInterval)
		if ctx.Err() != nil {
			return nil
		}
	}
}

func (u *outdatedUses) canonical(integration, store string) string {
	if in, err := u.integrations.Get(integration); err == nil {
		return in.CanonicalStore(store)
	}
	return store
}
