package backoff

import (
	"math"
	"testing"
	"time"
)

func TestAfter(t *testing.T) {
	l := Limits{First: 500 * time.Millisecond, Longest: 3 * time.Second}
	for failures, want := range map[int]time.Duration{1: l.First, 2: time.Second, 3: 2 * time.Second, 4: l.Longest, math.MaxInt: l.Longest} {
		if got := l.After(failures); got != want {
			t.Errorf("after %d failures: %v, want %v", failures, got, want)
		}
	}
}

func TestJitter(t *testing.T) {
	seen := make(map[time.Duration]bool)
	for range 1000 {
		got := Jitter(time.Minute)
		if seen[got] = true; got < 48*time.Second || got > time.Minute {
			t.Fatalf("%v of a minute", got)
		}
	}
	if len(seen) < 900 {
		t.Errorf("%d different pauses of 1000", len(seen))
	}
	if got := Jitter(0); got != 0 {
		t.Errorf("%v of no pause", got)
	}
}
