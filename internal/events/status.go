package events

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Outcome is what an event has led to.
type Outcome uint8

// The outcomes. If an event concerns several integrations, it has the last of the outcomes
// that it has led to.
const (
	// Ignored: the message is about something that does not concern the values of secrets.
	Ignored Outcome = iota
	// NotUnderstood: the message was acknowledged and not used.
	NotUnderstood
	// ForeignStore: the store is not one of the source's integration.
	ForeignStore
	// NotHeld: no replica has read the secret lately or watches it.
	NotHeld
	// Known: the secret is known to have the version of the event.
	Known
	// Read: the event caused a read, or joined one.
	Read
	// Failed: the store did not answer, or not the version of the event, although the read
	// was repeated. It is counted in addition to Read.
	Failed
	numOutcomes
)

// Outcomes are all Outcomes.
var Outcomes = [...]Outcome{Ignored, NotUnderstood, ForeignStore, NotHeld, Known, Read, Failed}

func (o Outcome) String() string {
	return [...]string{"ignored", "not_understood", "foreign_store", "not_held", "known", "read", "failed"}[o]
}

// Counts are numbers of events by Outcome, and of messages for Ignored and NotUnderstood.
type Counts [numOutcomes]uint64

// Status is the state of one source.
type Status struct {
	// IntegrationID is the id of the integration of the source, or of the file of a central
	// source.
	IntegrationID string
	Central       bool
	// Name is that of the queue, for people.
	Name string
	// Local means that the source is the operating system and not a queue.
	Local bool
	// PolledAt is the end of the last Receive that succeeded, EventAt the arrival of the last
	// message, and Delivery the time that it had been in the queue; zero if there was none, or
	// the queue does not say.
	PolledAt, EventAt time.Time
	Delivery          time.Duration
	// Problem is why the source fails, "" if it works, and Since when it began to fail.
	Problem string
	Since   time.Time
	Counts  Counts
}

// activity is what the goroutine of a source is waiting for.
type activity uint8

const (
	idle activity = iota
	opening
	receiving
	acknowledging
	closing
)

// hangs is how long an activity may take, and what it is called.
var hangs = map[activity]struct {
	after time.Duration
	what  string
}{
	opening:       {30 * time.Second, "opening the source"},
	receiving:     {receiveTime + 15*time.Second, "receiving messages"},
	acknowledging: {acknowledgeTime + 15*time.Second, "deleting messages"},
	closing:       {30 * time.Second, "closing the source"},
}

// state is the state of a source; source.mu guards it.
type state struct {
	activity      activity
	since         time.Time // of the activity
	polled, event time.Time
	delivery      time.Duration
	problem       string
	failingSince  time.Time
	counts        Counts
}

func (s *source) begin(a activity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.activity, s.state.since = a, time.Now()
}

// arrived notes the arrival of a message.
func (s *source) arrived(m *provider.EventMessage) {
	now := time.Now()
	var delivery time.Duration
	if !m.SentAt.IsZero() {
		delivery = max(now.Sub(m.SentAt), 0) // the clock of the queue may be ahead
		s.receiver.cfg.Delivered(delivery)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.event, s.state.delivery = now, delivery
}

func (s *source) count(o Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.counts[o]++
}

// gaveUp notes that reading because of an event has ended without success.
func (s *source) gaveUp(result) { s.count(Failed) }

// polled notes that a Receive has succeeded.
func (s *source) polled() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.polled = time.Now()
}

// works notes that messages were received, handled and acknowledged.
func (s *source) works() {
	s.mu.Lock()
	was := s.state.problem
	since := s.state.failingSince
	s.state.problem, s.state.failingSince = "", time.Time{}
	s.mu.Unlock()
	if was != "" {
		s.log().Info("the source of events works again", "failed_for", time.Since(since).Round(time.Second).String())
	}
}

// failed notes a failure, and logs it if it is the first in a row.
func (s *source) failed(e *secret.Error, failures int) {
	s.mu.Lock()
	if s.state.failingSince.IsZero() {
		s.state.failingSince = time.Now()
	}
	s.state.problem = e.Message
	s.mu.Unlock()
	if failures == 1 {
		s.log().Warn("the source of events fails; secrets are still read once per time-to-live", "error", e)
	}
}

func (s *source) status(now time.Time) Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{
		IntegrationID: s.in.ID, Central: s.covers != nil, Name: s.in.EventSource(), Local: s.local(),
		PolledAt: s.state.polled, EventAt: s.state.event, Delivery: s.state.delivery,
		Problem: s.state.problem, Since: s.state.failingSince, Counts: s.state.counts,
	}
	if h := hangs[s.state.activity]; s.state.activity != idle && now.Sub(s.state.since) > h.after {
		st.Problem = fmt.Sprintf("%s has not ended for %v", h.what, now.Sub(s.state.since).Round(time.Second))
		if st.Since.IsZero() {
			st.Since = s.state.since
		}
	}
	return st
}

// Status returns the states of all sources, central ones first.
func (r *Receiver) Status() []Status {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Status, 0, len(r.sources)+len(r.ending))
	for id, s := range r.sources {
		if r.ending[id] == nil {
			all = append(all, s.status(now))
		}
	}
	for _, s := range r.ending {
		all = append(all, s.status(now))
	}
	slices.SortFunc(all, func(a, b Status) int {
		return cmp.Or(cmp.Compare(b2i(b.Central), b2i(a.Central)), cmp.Compare(a.IntegrationID, b.IntegrationID))
	})
	return all
}

func (s *source) log() *slog.Logger {
	name := "integration_id"
	if s.central() {
		name = "central_source"
	}
	return s.receiver.cfg.Logger.With(name, s.in.ID, "source", s.in.EventSource())
}
