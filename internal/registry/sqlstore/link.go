package sqlstore

import (
	"sync"
	"time"
)

// Bounds of the time limits that a link computes.
const (
	minRoundTrip = 2 * time.Second
	maxRoundTrip = 15 * time.Second
	// connectTime bounds connecting to one host unless the URL sets connect_timeout. On
	// slow links the limit grows to maxConnect.
	connectTime = 5 * time.Second
	maxConnect  = 20 * time.Second
	// loadTime bounds reading what has changed. On slow links the limit grows to maxLoad.
	loadTime = 10 * time.Second
	maxLoad  = 30 * time.Second
)

// link estimates the latency of the connection to the database and derives time limits
// from it. The zero value is ready for use, and it is safe for concurrent use.
type link struct {
	mu sync.Mutex
	// mean and deviation of a round trip, smoothed as in TCP (RFC 6298); 0 before the
	// first measurement.
	mean, deviation time.Duration
	timeouts        int // consecutive
}

// measured records the duration of a round trip.
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

// timedOut records that an operation exceeded its time limit. The next attempt gets twice
// the time.
func (l *link) timedOut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timeouts = min(l.timeouts+1, 4)
}

// roundTrip is the time limit of one round trip.
func (l *link) roundTrip() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	usual := 2 * minRoundTrip // before the first measurement
	if l.mean > 0 {
		usual = max(minRoundTrip, 2*l.mean+4*l.deviation)
	}
	return min(usual<<l.timeouts, maxRoundTrip)
}

// connect is the time limit of connecting, which takes about eight round trips.
func (l *link) connect() time.Duration { return l.scaled(connectTime, maxConnect) }

// load is the time limit of reading what has changed.
func (l *link) load() time.Duration { return l.scaled(loadTime, maxLoad) }

func (l *link) scaled(least, most time.Duration) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return min((least+8*l.mean)<<l.timeouts, most)
}
