package provider

import (
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/secretbroker/secretbroker/internal/integration"
)

const (
	// suspicious is the number of reads without a response, running or failed, from which
	// the store and not a secret is the likely cause.
	suspicious = 2
	// hangAfter and maxHangAfter bound how long suspicious reads must get no response
	// before the store counts as hanging.
	hangAfter    = 500 * time.Millisecond
	maxHangAfter = 2 * time.Second
	// knownFor is how long a failed read says something about the store.
	knownFor = 10 * time.Second
)

// health is what the reads of a store show about whether it responds. Every response,
// however odd, is a sign of life. limiter.mu guards it.
type health struct {
	unanswered int       // reads in a row that failed without a response
	failed     time.Time // when the last of them failed
	// silent is the time since when there is no sign of life although suspicious reads
	// wait for one. It has no meaning while there are fewer.
	silent time.Time
	// typical is the smoothed duration of the reads that got a response.
	typical time.Duration
}

// began records the start of a read; running includes it.
func (h *health) began(running int, now time.Time) {
	if now.Sub(h.failed) > knownFor {
		h.unanswered = 0
	}
	if running+h.unanswered == suspicious {
		h.silent = now
	}
}

// responded records a sign of life, after a read that took the given time.
func (h *health) responded(took time.Duration, now time.Time) {
	h.unanswered, h.silent = 0, now
	h.typical += (took - h.typical) / 8
}

// silence records the failure of a read that got no response.
func (h *health) silence(now time.Time) {
	h.unanswered++
	h.failed = now
}

// unresponsive reports whether the store fails to respond, as far as is known: the last
// reads have just failed, or the running ones have been waiting for much longer than
// usual.
func (h *health) unresponsive(running int, dead bool, now time.Time) bool {
	if (dead || h.unanswered >= suspicious) && now.Sub(h.failed) <= knownFor {
		return true
	}
	return running > 0 && running+h.unanswered >= suspicious &&
		now.Sub(h.silent) >= min(max(hangAfter, 4*h.typical), maxHangAfter)
}

// Unresponsive reports whether the integration's store is known not to respond right now:
// its circuit breaker is not closed, or at least two reads in a row have got no response.
// It does not block. It is false for a store that has not been read.
func (s *Set) Unresponsive(in *integration.Integration, store string) bool {
	s.mu.Lock()
	var lim *limiter
	if st := s.states[in.ID]; st != nil {
		lim = st.limiters[in.CanonicalStore(store)]
	}
	s.mu.Unlock()
	if lim == nil {
		return false
	}
	lim.mu.Lock()
	defer lim.mu.Unlock()
	return lim.health.unresponsive(lim.running, lim.breaker.State() != gobreaker.StateClosed, time.Now())
}
