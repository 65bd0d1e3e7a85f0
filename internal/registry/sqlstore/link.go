package sqlstore

import (
	"sync"
	"time"
)

// The bounds of what a link is given.
const (
	minRoundTrip = 2 * time.Second
	maxRoundTrip = 15 * time.Second
	// connectTime bounds making a connection to one host unless the URL has
	// connect_timeout; slow links get up to maxConnect.
	connectTime = 5 * time.Second
	maxConnect  = 20 * time.Second
	// loadTime bounds reading what has changed; slow links get up to maxLoad.
	loadTime = 10 * time.Second
	maxLoad  = 30 * time.Second
)

// link is what is known of the way to the database. Its zero value is ready for
// use, and it is safe for concurrent use.
type link struct {
	mu sync.Mutex
	// mean and deviation of a round trip, smoothed as TCP does (RFC 6298); 0 before
	// the first one.
	mean, deviation time.Duration
	timeouts        int // in a row
}

// measured notes how long a round trip has taken.
func (l *link) measured(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timeouts = 0
	if l.mean == 0 {
		l.mean, l.deviation = d, d/2
		return
	}
	l.deviation += ((l.mean - d).Abs() - l.deviation) / 4
	l.mean += (d - l.mean) / 8
}

// timedOut notes that something took longer than it was given: the next attempt
// gets twice the time.
func (l *link) timedOut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timeouts = min(l.timeouts+1, 4)
}

// roundTrip is how long one round trip may take.
func (l *link) roundTrip() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	usual := 2 * minRoundTrip // nothing is known
	if l.mean > 0 {
		usual = max(minRoundTrip, 2*l.mean+4*l.deviation)
	}
	return min(usual<<l.timeouts, maxRoundTrip)
}

// connect is how long making a connection may take: some eight round trips.
func (l *link) connect() time.Duration { return l.scaled(connectTime, maxConnect) }

// load is how long reading what has changed may take.
func (l *link) load() time.Duration { return l.scaled(loadTime, maxLoad) }

func (l *link) scaled(least, most time.Duration) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return min((least+8*l.mean)<<l.timeouts, most)
}
