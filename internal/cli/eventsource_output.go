package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/client"
)

// EventSourceJSON is the JSON and YAML output of a source of events.
type EventSourceJSON struct {
	Name             string           `json:"name,omitempty"`
	OperatorSourceID string           `json:"operator_source_id,omitempty"`
	State            string           `json:"state"`
	Problem          string           `json:"problem,omitempty"`
	ProblemTime      *time.Time       `json:"problem_time,omitempty"`
	LastPollTime     *time.Time       `json:"last_poll_time,omitempty"`
	LastEventTime    *time.Time       `json:"last_event_time,omitempty"`
	DeliverySeconds  float64          `json:"last_delivery_delay_seconds,omitempty"`
	MissedCount      int64            `json:"missed_count,omitempty"`
	LastMissedTime   *time.Time       `json:"last_missed_time,omitempty"`
	EventCounts      map[string]int64 `json:"event_counts,omitempty"`
	Replica          string           `json:"replica,omitempty"`
}

func structuredEventSource(s *client.EventSource) EventSourceJSON {
	return EventSourceJSON{
		Name: s.Name, OperatorSourceID: s.OperatorID, State: string(s.State), Problem: s.Problem, ProblemTime: timeOrNil(s.ProblemTime),
		LastPollTime: timeOrNil(s.LastPollTime), LastEventTime: timeOrNil(s.LastEventTime), DeliverySeconds: s.LastDeliveryDelay.Seconds(),
		MissedCount: s.Missed, LastMissedTime: timeOrNil(s.LastMissedTime), EventCounts: s.Counts, Replica: s.Replica,
	}
}

// printEventSources prints rows about sources of events.
func printEventSources(row func(name, value string), sources []client.EventSource) {
	for i := range sources {
		s := &sources[i]
		name := s.Name
		if name == "" {
			name = "the operator's source " + s.OperatorID
		}
		row("Events from", name)
		state := strings.ToLower(string(s.State))
		if s.Problem != "" {
			state += " since " + momentText(s.ProblemTime) + ": " + s.Problem
		}
		if s.State == client.EventSourceFailing || s.State == client.EventSourceSilent {
			state += "; secrets are still read once per time-to-live"
		}
		row("  State", state)
		row("  Last poll", momentText(s.LastPollTime))
		last := momentText(s.LastEventTime)
		if last == "" {
			last = "none"
		} else if s.LastDeliveryDelay > 0 {
			last += fmt.Sprintf(", %v after it was sent", s.LastDeliveryDelay.Round(time.Millisecond))
		}
		row("  Last event", last)
		if s.Missed > 0 {
			row("  Missed", fmt.Sprintf("%d changes without an event, the last noticed %s", s.Missed, momentText(s.LastMissedTime)))
		}
		var counts []string
		for _, outcome := range slices.Sorted(maps.Keys(s.Counts)) {
			counts = append(counts, fmt.Sprintf("%s %d", outcome, s.Counts[outcome]))
		}
		row("  Events", strings.Join(counts, ", "))
		row("  Seen by", s.Replica)
	}
}
