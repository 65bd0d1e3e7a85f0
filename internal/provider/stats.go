package provider

import (
	"sync/atomic"

	"github.com/sony/gobreaker/v2"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// Stats are figures of all integrations of one kind.
type Stats struct {
	// Reading and Waiting are how many Fetches read a store, or wait for their
	// turn to.
	Reading, Waiting int64
	// Unanswering is the number of stores whose circuit breaker is not closed.
	Unanswering int64
	// Trips counts how often a store has begun to be one of those, Throttled the
	// reads that a store refused because there were too many, Refused those that the
	// broker refused because their caller's turn would not have come in time or its
	// share of the queue was used up.
	Trips, Throttled, Refused uint64
}

// counters are the Stats that outlive a store.
type counters struct{ opened, throttled, refused atomic.Uint64 }

// Stats returns the figures of a kind.
func (s *Set) Stats(kind secret.Kind) Stats {
	s.mu.Lock()
	count := s.counters(kind)
	var limiters []*limiter
	for _, st := range s.states {
		if st.kind == kind {
			for _, lim := range st.limiters {
				limiters = append(limiters, lim)
			}
		}
	}
	s.mu.Unlock()
	stats := Stats{Trips: count.opened.Load(), Throttled: count.throttled.Load(), Refused: count.refused.Load()}
	for _, lim := range limiters {
		lim.mu.Lock()
		stats.Reading += int64(lim.running)
		stats.Waiting += int64(lim.queue.waiting)
		if lim.breaker.State() != gobreaker.StateClosed {
			stats.Unanswering++
		}
		lim.mu.Unlock()
	}
	return stats
}

// counters returns those of a kind. s.mu is held.
func (s *Set) counters(kind secret.Kind) *counters {
	c := s.counts[kind]
	if c == nil {
		c = &counters{}
		s.counts[kind] = c
	}
	return c
}
