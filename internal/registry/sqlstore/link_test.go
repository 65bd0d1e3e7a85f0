package sqlstore

import (
	"testing"
	"time"
)

// TestLinkGivesTheTimeThatItTakes: deadlines follow the measured latency, and double after
// every timeout.
func TestLinkGivesTheTimeThatItTakes(t *testing.T) {
	var l link
	if got := l.roundTrip(); got != 2*minRoundTrip {
		t.Errorf("of an unknown link: %v", got)
	}
	for range 50 {
		l.measured(time.Millisecond)
	}
	if l.roundTrip() != minRoundTrip || l.connect() < connectTime || l.connect() > connectTime+time.Second || l.load() < loadTime {
		t.Errorf("of a fast link: %v, %v, %v", l.roundTrip(), l.connect(), l.load())
	}
	for range 50 {
		l.measured(1500 * time.Millisecond)
	}
	if got := l.roundTrip(); got < 3*time.Second || got > 4*time.Second {
		t.Errorf("of a link that has become slow: %v", got)
	}
	if got := l.connect(); got < 12*time.Second || got > maxConnect {
		t.Errorf("connecting on it: %v", got)
	}
	for range 10 {
		before := l.roundTrip()
		l.timedOut()
		if now := l.roundTrip(); now < before || now > maxRoundTrip || now == before && now != maxRoundTrip {
			t.Errorf("after a timeout: %v, before it %v", now, before)
		}
	}
	if l.load() != maxLoad || l.connect() != maxConnect {
		t.Errorf("after many timeouts: %v, %v", l.load(), l.connect())
	}
	l.measured(time.Millisecond)
	if l.roundTrip() >= maxRoundTrip {
		t.Errorf("after an answer: %v", l.roundTrip())
	}
}
