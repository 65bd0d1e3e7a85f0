package watch

// Stats contains values for metrics.
type Stats struct {
	// Items, Secrets and Principals are the current numbers.
	Items, Secrets, Principals int
	// Reads is the number of reads that the Hub has begun, Postponed how often one was
	// postponed because another replica had read the secret, and Notices the number of notices
	// by State.
	Reads, Postponed uint64
	// Polls is the number of times that the Hub has asked a Peeker.
	Polls   uint64
	Notices [numStates]uint64
}

// Stats returns the current values.
func (h *Hub) Stats() Stats {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.stats
	s.Items, s.Secrets, s.Principals = h.items, len(h.targets), len(h.watchers)
	for t := range h.kept {
		if len(t.items) == 0 { // it is not watched
			s.Secrets--
		}
	}
	return s
}
