package app

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/events"
	"github.com/secretbroker/secretbroker/internal/manage"
)

// TestShownEventSource: who manages an integration sees the numbers, the queue and the problem
// of its own source only.
func TestShownEventSource(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	s := events.Status{IntegrationID: "id", Name: "queue", PolledAt: at, EventAt: at, Problem: "denied", Since: at, Missed: 3, MissedAt: at}
	s.Counts[events.Read] = 2
	want := manage.EventSource{
		Name: "queue", State: manage.EventsFailing, Problem: "denied", ProblemSince: at, PolledAt: at, EventAt: at,
		Missed: 3, MissedAt: at, Counts: map[string]uint64{"read": 2},
	}
	if diff := cmp.Diff(want, shown(&s)); diff != "" {
		t.Error(diff)
	}
	s.Central = true
	want = manage.EventSource{
		OperatorID: "id", State: manage.EventsFailing, Problem: "the source fails; the operator sees why in the log and in /readyz",
		ProblemSince: at, PolledAt: at, EventAt: at,
	}
	if diff := cmp.Diff(want, shown(&s)); diff != "" {
		t.Error(diff)
	}
}
