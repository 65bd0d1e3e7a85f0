package manage

import (
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
)

// EventSource is the state of a source of events, as a caller with a role on an integration
// may see it.
type EventSource struct {
	// Name is that of the integration's own source; "" for one of the operator, which has an
	// OperatorID, no Missed and no Counts.
	Name, OperatorID string
	State            EventState
	Problem          string
	ProblemSince     time.Time
	PolledAt         time.Time
	EventAt          time.Time
	Delivery         time.Duration
	Missed           uint64
	MissedAt         time.Time
	// Counts are the numbers of events by outcome.
	Counts map[string]uint64
	// Replica is the name of this replica.
	Replica string
}

// EventState is a state of an EventSource.
type EventState string

// The states.
const (
	EventsStarting EventState = "STARTING"
	EventsWorking  EventState = "WORKING"
	EventsFailing  EventState = "FAILING"
	// EventsSilent: no event arrived about the last changes of secrets.
	EventsSilent EventState = "SILENT"
)

// withEvents adds the states of the sources of events of an integration that is in effect.
func (s *Service) withEvents(in Integration, of *integration.Integration) Integration {
	if of != nil {
		in.EventSources = s.cfg.Events(of)
	}
	return in
}
