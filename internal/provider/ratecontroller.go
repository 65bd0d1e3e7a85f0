package provider

import (
	"math"
	"time"
)

const (
	// defaultPause is the first pause after a store throttles without requesting one.
	// While it keeps throttling, the pause doubles up to longestPause.
	defaultPause, longestPause = time.Second, 8 * time.Second
	// shortestPause replaces shorter pauses that a store requests.
	shortestPause = 100 * time.Millisecond
	// cut is the factor by which the rate is reduced after a store has throttled.
	cut = 0.8
	// recovery is the time until the rate is back at the one that was too high.
	recovery = 5 * time.Second
	// forgotten is the time after which a throttling no longer has an effect.
	forgotten = time.Minute
	// slowest is the minimum rate that throttling reduces a store to, in reads per second:
	// an eighth of what Key Vault permits per vault.
	slowest = 50
	// slack is how late a read may begin without delaying the next one. It compensates for
	// timers that fire late.
	slack = 10 * time.Millisecond
)

// rateController determines the rate at which one store is read. A store that has not
// throttled recently is read without a limit. After it throttles, the controller pauses
// for as long as the store requests, continues at a rate somewhat below the last one that
// worked, and increases it along the curve of CUBIC (RFC 9438): quickly up to the rate
// that was too high, slowly around it, then quickly again. The rate is measured rather
// than configured because other clients share the store's quota.
//
// It is not safe for concurrent use.
type rateController struct {
	limit float64 // the configured limit, in reads per second; zero for none

	next        time.Time // no read begins before this
	pausedUntil time.Time // nor before this, when the recovery starts
	pause       time.Duration
	before      float64 // the rate that was too high; zero if none was
	after       float64 // the rate that it was reduced to

	// answered is the number of reads that the store has answered since pausedUntil.
	answered int
	// The answers in the current second, and in the one before it.
	began             time.Time
	current, previous int
}

// perSecond is the rate in reads per second, infinite if it is not limited.
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

// wait is the time until a read may begin; zero or less means now.
func (c *rateController) wait(now time.Time) time.Duration {
	return max(c.next.Sub(now), c.pausedUntil.Sub(now))
}

// turnIn is the time until a read with the given number of reads before it may begin.
func (c *rateController) turnIn(before int, now time.Time) time.Duration {
	return max(c.wait(now), 0) + time.Duration(float64(before)/c.perSecond(now)*float64(time.Second))
}

// begin records the start of a read.
func (c *rateController) begin(now time.Time) {
	if r := c.perSecond(now); !math.IsInf(r, 1) {
		c.next = later(c.next, now.Add(-slack)).Add(time.Duration(float64(time.Second) / r))
	}
}

// good records an answer.
func (c *rateController) good(now time.Time) {
	c.tick(now)
	c.current++
	c.answered++
}

// throttled records that the store has rejected a read that began at began. asked is the
// pause that the store requested, or zero. A pause is never shortened.
func (c *rateController) throttled(now, began time.Time, asked time.Duration) {
	if asked <= 0 {
		asked = defaultPause
	}
	asked = max(asked, shortestPause)
	switch {
	case began.Before(c.pausedUntil):
		// The read was already running when the first one was throttled.
	case c.answered == 0 && c.slowed(now):
		// Nothing succeeded since the last pause, so the pause was too short. That says
		// nothing about the rate.
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

// measured is the number of reads that the store has answered within the last second.
func (c *rateController) measured(now time.Time) float64 {
	c.tick(now)
	return float64(c.current) + float64(c.previous)*(1-now.Sub(c.began).Seconds())
}

// tick moves on to the current second.
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
