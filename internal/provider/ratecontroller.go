package provider

import (
	"math"
	"time"
)

const (
	// defaultPause is for how long a store that throttles without saying more is
	// left alone, at first; longestPause what doubling makes of it.
	defaultPause, longestPause = time.Second, 8 * time.Second
	// shortestPause is what a store gets that asks for less.
	shortestPause = 100 * time.Millisecond
	// cut is what is left of the pace after a store has throttled.
	cut = 0.8
	// recovery is how long it takes to be back at the pace that was too much.
	recovery = 5 * time.Second
	// forgotten is after how long a throttling no longer matters.
	forgotten = time.Minute
	// slowest is the least pace that a store is slowed down to, in reads per
	// second: an eighth of what Key Vault grants a vault.
	slowest = 50
	// slack is how late a read may begin without the next one's being late too.
	// It makes up for timers that ring late.
	slack = 10 * time.Millisecond
)

// rateController decides how fast one store may be read. A store that has not throttled recently
// is read as fast as it answers. One that has is left alone for as long as it
// asked for, then read at somewhat less than what it last took, and from there
// along the curve of CUBIC (RFC 9438): quickly back to the pace that was too
// much, slowly past it, quickly on. The pace is found out rather than configured
// because a vault's quota is shared with its other clients.
//
// It is not safe for concurrent use.
type rateController struct {
	limit float64 // the operator's, in reads per second; zero for none

	next        time.Time // no read begins before
	pausedUntil time.Time // nor before this; since then is the time of recovery
	pause       time.Duration
	before      float64 // the pace that was too much; zero if none was
	after       float64 // what it was cut to

	// answered is how many reads the store has answered since pausedUntil.
	answered int
	// Answers in the second that began last, and in the one before it.
	began             time.Time
	current, previous int
}

// perSecond is the pace in reads per second, infinite if nothing limits it.
func (c *rateController) perSecond(now time.Time) float64 {
	r := math.Inf(1)
	if c.slowed(now) && c.before > 0 {
		x := max(now.Sub(c.pausedUntil), 0).Seconds()/recovery.Seconds() - 1
		r = c.before + (c.before-c.after)*x*x*x
	}
	if c.limit > 0 {
		r = min(r, c.limit)
	}
	return r
}

// slowed reports whether the store has throttled recently.
func (c *rateController) slowed(now time.Time) bool { return now.Before(c.pausedUntil.Add(forgotten)) }

// wait is how long it is until a read may begin, not above zero if it may now.
func (c *rateController) wait(now time.Time) time.Duration {
	return max(c.next.Sub(now), c.pausedUntil.Sub(now))
}

// turnIn is wait for a read with that many others before it.
func (c *rateController) turnIn(before int, now time.Time) time.Duration {
	return max(c.wait(now), 0) + time.Duration(float64(before)/c.perSecond(now)*float64(time.Second))
}

// begin notes that a read begins.
func (c *rateController) begin(now time.Time) {
	if r := c.perSecond(now); !math.IsInf(r, 1) {
		c.next = later(c.next, now.Add(-slack)).Add(time.Duration(float64(time.Second) / r))
	}
}

// good notes an answer.
func (c *rateController) good(now time.Time) {
	c.tick(now)
	c.current++
	c.answered++
}

// throttled notes that the store has refused a read that began then, and how
// long it wants to be left alone, zero if it does not say. A pause is never
// shortened.
func (c *rateController) throttled(now, began time.Time, asked time.Duration) {
	if asked <= 0 {
		asked = defaultPause
	}
	asked = max(asked, shortestPause)
	switch {
	case began.Before(c.pausedUntil):
		// It was under way with the read that first was throttled.
	case c.answered == 0 && c.slowed(now):
		// Nothing got through since the last pause: that was too short, which says
		// nothing about the pace.
		c.pause = min(2*c.pause, longestPause)
		asked = max(asked, c.pause)
	default:
		c.before = max(c.measured(now), slowest)
		c.after = cut * c.before
		c.pause = asked
	}
	c.answered = 0
	c.pausedUntil = later(c.pausedUntil, now.Add(asked))
}

// measured is how many reads the store has answered within the last second.
func (c *rateController) measured(now time.Time) float64 {
	c.tick(now)
	return float64(c.current) + float64(c.previous)*(1-now.Sub(c.began).Seconds())
}

// tick begins new seconds.
func (c *rateController) tick(now time.Time) {
	switch passed := now.Sub(c.began); {
	case passed >= 2*time.Second:
		c.began, c.current, c.previous = now, 0, 0
	case passed >= time.Second:
		c.began, c.current, c.previous = c.began.Add(time.Second), 0, c.current
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
