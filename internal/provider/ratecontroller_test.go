package provider

import (
	"math"
	"testing"
	"time"
)

// TestRateController follows a store that throttles at 400 reads a second, with a
// clock of its own.
func TestRateController(t *testing.T) {
	start := time.Unix(1_000_000_000, 0)
	now := start
	c := rateController{began: now}
	rate := func(what string, want float64) {
		t.Helper()
		if got := c.perSecond(now); math.Abs(got-want) > want/100 {
			t.Errorf("%s: %.1f reads a second, want %.0f", what, got, want)
		}
	}
	if !math.IsInf(c.perSecond(now), 1) || c.wait(now) > 0 || c.slowed(now) {
		t.Error("a new pace is limited")
	}
	for range 400 {
		c.good(now)
	}
	now = now.Add(time.Second / 2)
	c.throttled(now, start, 2*time.Second)
	if c.wait(now) != 2*time.Second || c.turnIn(320, now) != 3*time.Second {
		t.Errorf("a pause of %v, the 321st in %v", c.wait(now), c.turnIn(320, now))
	}
	rate("cut", 320)
	c.throttled(now.Add(time.Second/2), start, time.Second)
	if c.wait(now) != 2*time.Second {
		t.Errorf("a read that was under way made the pause %v", c.wait(now))
	}
	rate("cut once for all that were under way", 320)

	now = now.Add(2 * time.Second)
	if c.wait(now) > 0 {
		t.Error("the pause is not over")
	}
	for range 320 {
		c.begin(now)
	}
	if got := c.wait(now); got < time.Second-slack-time.Millisecond || got > time.Second-slack {
		t.Errorf("after 320 reads the next one in %v", got)
	}
	c.next = now
	// All reads are throttled: pauses grow, the rate stays.
	for i, want := range []time.Duration{4, 8, 8} {
		c.throttled(now, now, 0)
		if got := c.wait(now); got != want*time.Second {
			t.Errorf("pause %d is %v, want %d s", i, got, want)
		}
		rate("no evidence", 320)
		now = now.Add(c.wait(now))
	}
	now = now.Add(recovery)
	rate("recovered", 400)
	now = now.Add(recovery)
	rate("beyond", 480)

	// Other clients use most of the quota.
	c.good(now)
	c.throttled(now, now, 0)
	rate("the slowest", cut*slowest)
	c.limit = 10
	rate("the operator's limit", 10)
	c.limit = 0
	now = now.Add(defaultPause + forgotten)
	if !math.IsInf(c.perSecond(now), 1) || c.slowed(now) {
		t.Error("an old throttling is not forgotten")
	}
}

// The reads of the last second are counted, however they are distributed over clock
// seconds.
func TestRateControllerMeasures(t *testing.T) {
	now := time.Unix(1_000_000_000, 0)
	c := rateController{began: now}
	for range 5000 { // 100 a second
		now = now.Add(10 * time.Millisecond)
		c.good(now)
		if got := c.measured(now); now.Unix() > 1_000_000_001 && (got < 98 || got > 102) {
			t.Fatalf("measured %.1f at %v", got, now)
		}
	}
	if got := c.measured(now.Add(2 * time.Second)); got != 0 {
		t.Errorf("measured %.1f after a silence", got)
	}
}
