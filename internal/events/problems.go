package events

import (
	"fmt"
	"strings"
	"time"
)

// The reasons of Problem.
const (
	// SourceFailing: messages cannot be received or deleted.
	SourceFailing = "EVENTS_FAILING"
	// SourceSilent: secrets have changed, and no event arrived.
	SourceSilent = "EVENTS_MISSED"
	// QueueShared: several integrations have the same queue, so each gets a part of the
	// messages.
	QueueShared = "EVENTS_QUEUE_SHARED"
	// SourcesUnused: there are more sources than one broker receives from.
	SourcesUnused = "EVENTS_NOT_RECEIVED"
)

// Problem is a problem of sources for the operator.
type Problem struct{ Reason, Message string }

const (
	// problemAfter is how long a source must fail before it is a problem.
	problemAfter = time.Minute
	// maxNamed is the maximum number of sources that one Problem names.
	maxNamed = 10
	// pollingGoesOn ends each problem.
	pollingGoesOn = "; secrets are still read once per time-to-live"
)

// Problems returns the problems of the sources, each reason at most once.
func (r *Receiver) Problems() []Problem {
	var failing, silent, shared []string
	users := make(map[string]string) // of queues
	now := time.Now()
	for _, s := range r.Status() {
		if first := users[s.Name]; first != "" && !s.Local {
			shared = append(shared, first+" and "+s.subject())
		} else {
			users[s.Name] = s.subject()
		}
		switch {
		case !s.Since.IsZero() && now.Sub(s.Since) > problemAfter:
			failing = append(failing, s.subject()+": "+s.Problem)
		case s.Silent:
			silent = append(silent, s.subject())
		}
	}
	var all []Problem
	if len(failing) > 0 {
		all = append(all, Problem{SourceFailing, "events are not received: " + named(failing, "; ") + pollingGoesOn})
	}
	if len(silent) > 0 {
		all = append(all, Problem{SourceSilent, "secrets changed, and no event about them arrived from the sources of " + named(silent, ", ") + pollingGoesOn})
	}
	if len(shared) > 0 {
		all = append(all, Problem{QueueShared, "each gets only a part of the messages, because they receive from the same queue: " + named(shared, "; ") +
			"; configure the queue once, in events.sources" + pollingGoesOn})
	}
	r.mu.Lock()
	left := r.left
	r.mu.Unlock()
	if left > 0 {
		all = append(all, Problem{SourcesUnused, fmt.Sprintf("%d sources of events are not used, because one broker receives from at most %d%s", left, r.cfg.MaxSources, pollingGoesOn)})
	}
	return all
}

// subject names a source.
func (s *Status) subject() string {
	if s.Central {
		return "events.sources " + s.IntegrationID
	}
	return s.IntegrationID
}

func named(all []string, separator string) string {
	if more := len(all) - maxNamed; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(all[:maxNamed], separator), more)
	}
	return strings.Join(all, separator)
}
