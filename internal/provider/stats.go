package provider

import (
	"sync/atomic"

	"github.com/sony/gobreaker/v2"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// Stats are figures over all integrations of one kind.
type Stats struct {
	// Reading and Waiting are the numbers of Fetches that are reading a store, and that
	// are waiting for their turn.
	Reading, Waiting int64
	// Unanswering is the number of stores whose circuit breaker is not closed.
	Unanswering int64
	// Trips counts how often a circuit breaker opened. Throttled counts the reads that a
	// store rejected because of its rate limit. Refused counts the reads that the broker
	// rejected because their turn would have come too late or their caller's share of the
	// queue was used up.
	Trips, Throttled, Refused uint64
}

// counters are the Stats that are kept after a store's limiter is dropped.
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

// counters returns the counters of a kind. s.mu is held.
func (s *Set) counters(kind secret.Kind) *counters {
	c := s.counts[kind]
	if c == nil {
		c = &counters{}
		s.counts[kind] = c
	}
	return c
}
