package events

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
)

const (
	// missedAfter is how long before or after a change an event about it may arrive.
	missedAfter = 2 * time.Minute
	// sweepInterval is the time between two looks at the changes without an event.
	sweepInterval = 15 * time.Second
	// maxExpected is the maximum number of changes for which an event is expected. Others
	// are not considered.
	maxExpected = 1000
)

// changeKey identifies a secret that changes. store is its canonical name.
type changeKey struct{ integration, store, name string }

// misses finds the changes of watched secrets for which no event arrived: a source that can
// be received from, but that the cloud does not deliver to, does not fail.
type misses struct {
	mu sync.Mutex
	// heard is when the last event about a secret that is held arrived, or another replica
	// saw a change. It keeps entries for missedAfter.
	heard    map[changeKey]time.Time
	expected map[changeKey]time.Time // when a change was noticed
}

func newMisses() *misses {
	return &misses{heard: make(map[changeKey]time.Time), expected: make(map[changeKey]time.Time)}
}

// hear notes that a change is explained.
func (m *misses) hear(k changeKey, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard[k] = now
	delete(m.expected, k)
}

// changed notes a change, which is expected to be explained.
func (m *misses) changed(k changeKey, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at, ok := m.heard[k]; ok && now.Sub(at) <= missedAfter {
		return
	}
	if _, ok := m.expected[k]; !ok && len(m.expected) < maxExpected {
		m.expected[k] = now
	}
}

// sweep removes what is too old, and returns the changes that were not explained, with the
// times when they were noticed.
func (m *misses) sweep(now time.Time) map[changeKey]time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k, at := range m.heard {
		if now.Sub(at) > missedAfter {
			delete(m.heard, k)
		}
	}
	missed := make(map[changeKey]time.Time)
	for k, at := range m.expected {
		if now.Sub(at) > missedAfter {
			missed[k] = at
			delete(m.expected, k)
		}
	}
	return missed
}

// Changed tells the Receiver that a watched secret has another version; store is its
// canonical name. It does not block, and calls nothing.
func (r *Receiver) Changed(integrationID, store, name string) {
	r.misses.changed(changeKey{integrationID, store, name}, time.Now())
}

// SeenElsewhere tells the Receiver that another replica has seen another version of a
// secret, perhaps because of an event that it received. It does not block.
func (r *Receiver) SeenElsewhere(integrationID, store, name string) {
	r.misses.hear(changeKey{integrationID, store, name}, time.Now())
}

// watchMisses counts the changes without an event until ctx ends.
func (r *Receiver) watchMisses(ctx context.Context) {
	for sleep(ctx, sweepInterval) {
		now := time.Now()
		for k, at := range r.misses.sweep(now) {
			in, err := r.integrations.Get(k.integration)
			if err != nil {
				continue
			}
			for _, s := range r.sourcesFor(in, k.store) {
				s.missed(at, now)
			}
		}
	}
}

// sourcesFor returns the sources of the events of some of the stores of an integration.
func (r *Receiver) sourcesFor(in *integration.Integration, stores ...string) []*source {
	var all []*source
	r.mu.Lock()
	for _, s := range r.sources {
		all = append(all, s)
	}
	r.mu.Unlock()
	some := all[:0]
	for _, s := range all {
		if s.in.Kind == in.Kind && s.serves(in.ID) && slices.ContainsFunc(stores, func(store string) bool { return sharesStore(s.in, in, store) }) {
			some = append(some, s)
		}
	}
	return some
}

// serves reports whether the source is one of an integration.
func (s *source) serves(integrationID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.covers != nil {
		return s.covers(integrationID)
	}
	return s.in.ID == integrationID
}
