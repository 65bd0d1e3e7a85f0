package app

import (
	"log/slog"

	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/events"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/watch"
)

// newReceiver returns the Receiver of the events of stores. openers replace those of the
// kinds if they are not nil.
func newReceiver(openers map[secret.Kind]provider.EventOpener, log *slog.Logger) *events.Receiver {
	if openers == nil {
		openers = kinds.EventOpeners(provider.Config{Logger: log})
	}
	return events.New(events.Config{Openers: openers, Logger: log})
}

// receiveFor connects a Receiver with what it reads.
func receiveFor(receiver *events.Receiver, integrations resolve.Integrations, hub *watch.Hub, values *cache.Cache, others *replicas, resolver *resolve.Resolver) {
	holdings := &events.Holdings{Hub: hub, Cache: values}
	if others.tracker != nil {
		holdings.Known = others.tracker.Known
	}
	receiver.Use(integrations, holdings, resolver)
}
