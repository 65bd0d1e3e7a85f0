package elapsed

import (
	"testing"
	"time"
)

func TestBetween(t *testing.T) {
	from := time.Now()
	wall := func(d time.Duration) time.Time { return from.Add(d).Round(0) } // without a monotonic reading
	if got := Between(from, from.Add(time.Minute)); got != time.Minute {
		t.Errorf("a minute later: %v", got)
	}
	if got := Between(wall(0), wall(8*time.Hour)); got != 8*time.Hour {
		t.Errorf("by the wall clock alone: %v", got)
	}
	if got := Between(from, from); got != 0 {
		t.Errorf("the same instant: %v", got)
	}
	if got := Between(from, wall(-time.Hour)); got != -time.Hour {
		t.Errorf("before, by the wall clock: %v", got)
	}
}

var sink time.Duration

func BenchmarkBetween(b *testing.B) {
	from := time.Now()
	for b.Loop() {
		sink = Between(from, time.Now())
	}
}
