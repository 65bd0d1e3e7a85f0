package client

import (
	"time"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// EventSource is a queue from which the broker learns that secrets may have changed, as the
// replica that answered sees it. Whatever its state is, secrets are read once per
// time-to-live.
type EventSource struct {
	// Name is the name of the queue. It is "" for a source that the operator has configured
	// for several integrations, which has an OperatorID, no Missed and no Counts.
	Name, OperatorID string
	State            EventSourceState
	// Problem is why the source fails, and ProblemTime since when.
	Problem     string
	ProblemTime time.Time
	// LastPollTime is when messages were last received without an error, LastEventTime when
	// the last one arrived, and LastDeliveryDelay how long it had been in the queue.
	LastPollTime, LastEventTime time.Time
	LastDeliveryDelay           time.Duration
	// Missed is the number of changes of watched secrets for which no event arrived although
	// the source worked, and LastMissedTime when the last of them was noticed.
	Missed         int64
	LastMissedTime time.Time
	// Counts are the numbers of events by outcome, such as "read".
	Counts map[string]int64
	// Replica is the name of the replica that answered.
	Replica string
}

// EventSourceState is how an EventSource is doing.
type EventSourceState string

// The states. A newer broker may have others, which are EventSourceStateUnknown.
const (
	EventSourceStateUnknown EventSourceState = ""
	// EventSourceStarting is the state of a source from which nothing was received yet.
	EventSourceStarting EventSourceState = "STARTING"
	// EventSourceWorking is the state of a source from which messages are received.
	EventSourceWorking EventSourceState = "WORKING"
	// EventSourceFailing is the state of a source from which messages are not received, or
	// cannot be deleted.
	EventSourceFailing EventSourceState = "FAILING"
	// EventSourceSilent is the state of a source from which messages are received, but that
	// delivered no event about the last changes of secrets.
	EventSourceSilent EventSourceState = "SILENT"
)

var eventSourceStates = map[secretbrokerv1.EventSource_State]EventSourceState{
	secretbrokerv1.EventSource_STATE_STARTING: EventSourceStarting,
	secretbrokerv1.EventSource_STATE_WORKING:  EventSourceWorking,
	secretbrokerv1.EventSource_STATE_FAILING:  EventSourceFailing,
	secretbrokerv1.EventSource_STATE_SILENT:   EventSourceSilent,
}

func eventSourceOf(m *secretbrokerv1.EventSource) EventSource {
	return EventSource{
		Name: m.GetName(), OperatorID: m.GetOperatorSourceId(), State: eventSourceStates[m.GetState()], Problem: m.GetProblem(), ProblemTime: timeOf(m.GetProblemTime()),
		LastPollTime: timeOf(m.GetLastPollTime()), LastEventTime: timeOf(m.GetLastEventTime()), LastDeliveryDelay: m.GetLastDeliveryDelay().AsDuration(),
		Missed: m.GetMissedCount(), LastMissedTime: timeOf(m.GetLastMissedTime()), Counts: m.GetEventCounts(), Replica: m.GetReplica(),
	}
}
