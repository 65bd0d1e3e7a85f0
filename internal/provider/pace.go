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

// pace is how fast one store may be read. A store that has not throttled of late
// is read as fast as it answers. One that has is left alone for as long as it
// asked for, then read at somewhat less than what it last took, and from there
// along the curve of CUBIC (RFC 9438): quickly back to the pace that was too
// much, slowly past it, quickly on. The pace is found out rather than configured
// because a vault's quota is shared with whoever else reads it.
//
// It is not safe for concurrent use.
type pace struct {
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

// rate is the pace in reads per second, infinite if nothing limits it.
func (p *pace) rate(now time.Time) float64 {
	r := math.Inf(1)
	if p.slowed(now) && p.before > 0 {
		x := max(now.Sub(p.pausedUntil), 0).Seconds()/recovery.Seconds() - 1
		r = p.before + (p.before-p.after)*x*x*x
	}
	if p.limit > 0 {
		r = min(r, p.limit)
	}
	return r
}

// slowed reports whether the store has throttled of late.
func (p *pace) slowed(now time.Time) bool { return now.Before(p.pausedUntil.Add(forgotten)) }

// wait is how long it is until a read may begin, not above zero if it may now.
func (p *pace) wait(now time.Time) time.Duration {
	return max(p.next.Sub(now), p.pausedUntil.Sub(now))
}

// turnIn is wait for a read with that many others before it.
func (p *pace) turnIn(before int, now time.Time) time.Duration {
	return max(p.wait(now), 0) + time.Duration(float64(before)/p.rate(now)*float64(time.Second))
}

// begin notes that a read begins.
func (p *pace) begin(now time.Time) {
	if r := p.rate(now); !math.IsInf(r, 1) {
		p.next = later(p.next, now.Add(-slack)).Add(time.Duration(float64(time.Second) / r))
	}
}

// good notes an answer.
func (p *pace) good(now time.Time) {
	p.tick(now)
	p.current++
	p.answered++
}

// throttled notes that the store has refused a read that began then, and how
// long it wants to be left alone, zero if it does not say. A pause is never
// shortened.
func (p *pace) throttled(now, began time.Time, asked time.Duration) {
	if asked <= 0 {
		asked = defaultPause
	}
	asked = max(asked, shortestPause)
	switch {
	case began.Before(p.pausedUntil):
		// It was under way with the read that first was throttled.
	case p.answered == 0 && p.slowed(now):
		// Nothing got through since the last pause: that was too short, which says
		// nothing about the pace.
		p.pause = min(2*p.pause, longestPause)
		asked = max(asked, p.pause)
	default:
		p.before = max(p.measured(now), slowest)
		p.after = cut * p.before
		p.pause = asked
	}
	p.answered = 0
	p.pausedUntil = later(p.pausedUntil, now.Add(asked))
}

// measured is how many reads the store has answered within the last second.
func (p *pace) measured(now time.Time) float64 {
	p.tick(now)
	return float64(p.current) + float64(p.previous)*(1-now.Sub(p.began).Seconds())
}

// tick begins new seconds.
func (p *pace) tick(now time.Time) {
	switch passed := now.Sub(p.began); {
	case passed >= 2*time.Second:
		p.began, p.current, p.previous = now, 0, 0
	case passed >= time.Second:
		p.began, p.current, p.previous = p.began.Add(time.Second), 0, p.current
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
