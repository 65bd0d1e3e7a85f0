package events

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
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
	// Missed is the number of changes of watched secrets for which no event arrived although
	// the source worked, MissedAt when the last of them was noticed, and Silent whether there
	// were so many without an event in between that the cloud seems not to deliver events.
	Missed   uint64
	MissedAt time.Time
	Silent   bool
	Counts   Counts
}

// The numbers of missed changes in a row that make a source Silent. Clouds have no event for
// some changes, such as disabling a version. Of a queue that replicas share, another replica
// may have received the event without having the secret.
const (
	silentAfter       = 2
	silentAfterShared = 4
)

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
	worksSince    time.Time // zero while it fails
	missed        uint64
	missedAt      time.Time
	missedInRow   int // since the last event
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
	if !s.local() {
		s.receiver.totals[o].Add(1)
	}
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
	if s.state.worksSince.IsZero() {
		s.state.worksSince = time.Now()
	}
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
	s.state.problem, s.state.worksSince = e.Message, time.Time{}
	s.mu.Unlock()
	if failures == 1 {
		s.log().Warn("the source of events fails; secrets are still read once per time-to-live", "error", e)
	}
}

// explained notes an event about a secret that is held.
func (s *source) explained(k changeKey) {
	s.receiver.misses.hear(k, time.Now())
	s.mu.Lock()
	was := s.silent()
	s.state.missedInRow = 0
	s.mu.Unlock()
	if was {
		s.log().Info("the source delivers events again")
	}
}

// silent reports whether the source seems to deliver no events. It requires the lock.
func (s *source) silent() bool {
	if s.receiver.cfg.SharedQueues() {
		return s.state.missedInRow >= silentAfterShared
	}
	return s.state.missedInRow >= silentAfter
}

// missed notes that no event arrived about a change that was noticed at a time. It does not
// count if the source failed or did not run then.
func (s *source) missed(at, now time.Time) {
	s.mu.Lock()
	since := s.state.worksSince
	if s.local() || since.IsZero() || at.Sub(since) < missedAfter || now.Sub(s.state.polled) > missedAfter {
		s.mu.Unlock()
		return
	}
	was := s.silent()
	s.state.missed++
	s.state.missedInRow++
	s.state.missedAt = at
	is := s.silent()
	s.mu.Unlock()
	s.receiver.missed.Add(1)
	if is && !was {
		s.log().Warn("secrets have changed, and the source has delivered no event about them; check the rule or subscription that fills the queue. Secrets are still read once per time-to-live")
	}
}

func (s *source) status(now time.Time) Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{
		IntegrationID: s.in.ID, Central: s.covers != nil, Name: s.in.EventSource(), Local: s.local(),
		PolledAt: s.state.polled, EventAt: s.state.event, Delivery: s.state.delivery,
		Problem: s.state.problem, Since: s.state.failingSince, Counts: s.state.counts,
		Missed: s.state.missed, MissedAt: s.state.missedAt, Silent: s.silent(),
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
	r.mu.Lock()
	some := slices.Collect(maps.Values(r.sources))
	for id, s := range r.ending { // until they have ended, no other source with their id runs
		if r.sources[id] == nil {
			some = append(some, s)
		}
	}
	r.mu.Unlock()
	return statusOf(some)
}

// StatusOf returns the states of the sources of the events of an integration.
func (r *Receiver) StatusOf(in *integration.Integration) []Status {
	return statusOf(r.sourcesFor(in, in.Settings.StoreNames()...))
}

// Totals returns the numbers of events of all sources since the start by Outcome, and that
// of changes without an event.
func (r *Receiver) Totals() (counts Counts, missed uint64) {
	for i := range counts {
		counts[i] = r.totals[i].Load()
	}
	return counts, r.missed.Load()
}

func statusOf(some []*source) []Status {
	now := time.Now()
	all := make([]Status, len(some))
	for i, s := range some {
		all[i] = s.status(now)
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
