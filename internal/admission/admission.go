// Package admission owns how many calls are let in: of each caller in a second
// and at the same time, and of all callers at the same time.
//
// A Gate says yes or no, at once and before anything else has been done for the
// call. Calls that need much CPU time then wait for their turn in a Queue. When the CPUs cannot follow a Gate lets in fewer. A part
// of the calls is reserved for callers that have few under way. The package knows neither
// gRPC nor what a call is about; a caller is a text to it.
package admission

import (
	"cmp"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/secretbroker/secretbroker/internal/cpulimit"
)

// Limits bound the calls. The zero value of each stands for its default.
type Limits struct {
	// PerSecond is how many calls of one caller are let in per second: 5,000. A
	// caller that was silent may make as many at once.
	PerSecond int
	// PerCaller is how many calls of one caller may be under way: 128 for each CPU.
	PerCaller int
	// Total is how many calls may be under way: 1,024 for each CPU. When the CPUs
	// are what there is too little of, this is how many calls wait for them. One
	// in eight is reserved for callers that have few calls under way.
	Total int
}

func (l Limits) withDefaults() Limits {
	return Limits{
		PerSecond: cmp.Or(l.PerSecond, 5000),
		PerCaller: cmp.Or(l.PerCaller, 128*cpulimit.CPUs()),
		Total:     cmp.Or(l.Total, 1024*cpulimit.CPUs()),
	}
}

// Limit names one of the limits.
type Limit string

// The limits, by the names of their settings.
const (
	PerSecond Limit = "max_calls_per_second_per_principal"
	PerCaller Limit = "max_concurrent_calls_per_principal"
	Total     Limit = "max_concurrent_calls"
	// CPU is no setting: the CPUs are overloaded.
	CPU Limit = "cpu"
	// Memory is no setting: the callers' requests take more memory than they may. A
	// Gate does not look at it.
	Memory Limit = "memory"
	// Callers is no setting: more callers at the same time than a Gate knows apart.
	Callers Limit = "callers"
)

// All lists the limits.
var All = []Limit{PerSecond, PerCaller, Total, CPU, Memory, Callers}

// Refusal says why a call is not let in.
type Refusal struct {
	Limit Limit
	// RetryAfter is when the caller's next call could be let in; zero where that
	// depends on when others end.
	RetryAfter time.Duration
}

const (
	// maxCallers is how many callers are known at the same time, some 200 bytes
	// each. Only who makes calls right now has to be.
	maxCallers = 1 << 16
	// sweepPause is the least time between two looks for callers to forget.
	sweepPause = 10 * time.Second
	// adaptPause is the least time between two looks at the CPUs.
	adaptPause = 20 * time.Millisecond
	// maxCPUWait is how long one wait in ten may take before calls are refused.
	maxCPUWait = 200 * time.Millisecond
	// oldNews is when what was seen of the CPUs says nothing any more.
	oldNews = time.Second
	// minAllowed calls for each CPU are let in however overloaded it is.
	minAllowed = 16
	// reservedShare is the part of the calls under way, one in so many, that only
	// quiet callers may use: see quiet.
	reservedShare = 8
	// quietShare and quietPerCPU bound the calls of a quiet caller.
	quietShare  = 16
	quietPerCPU = 8
)

// Gate lets calls in. It is safe for concurrent use and starts nothing that
// would have to be ended.
type Gate struct {
	maxCallers int

	mu      sync.Mutex
	limits  Limits
	callers map[string]*caller
	total   int // calls under way
	// allowed is how many calls may be under way just now: the limit, or less
	// while the CPUs are overloaded.
	allowed int
	adapted time.Time
	// wait tells how long work waited for a CPU since it was last asked.
	wait  func() time.Duration
	swept time.Time
}

// caller is what is known of one caller. It is as good as new, and may be
// forgotten, when it has no call under way and its bucket is full.
type caller struct {
	bucket *rate.Limiter
	calls  int // under way
}

// New makes a Gate.
func New(l Limits) *Gate {
	l = l.withDefaults()
	return &Gate{maxCallers: maxCallers, limits: l, allowed: l.Total, wait: newCPUWait().since, callers: make(map[string]*caller)}
}

// Enter lets a call in or refuses it; a call that was let in has to Leave. open is
// how many calls the caller has open, this one among them, if that is more than have
// entered: those whose requests or answers are on their way. now is the time; it
// should not go back between calls.
func (g *Gate) Enter(name string, open int, now time.Time) *Refusal {
	g.mu.Lock()
	defer g.mu.Unlock()
	c, over := g.mayEnter(name, open, now)
	if over != nil {
		return over
	}
	if !c.bucket.AllowN(now, 1) {
		return g.tooFast(c, now)
	}
	c.calls++
	g.total++
	return nil
}

// Look says why Enter would refuse a call, nil if it would not. It counts nothing.
func (g *Gate) Look(name string, open int, now time.Time) *Refusal {
	g.mu.Lock()
	defer g.mu.Unlock()
	c, over := g.mayEnter(name, open, now)
	if over == nil && c.bucket.TokensAt(now) < 1 {
		over = g.tooFast(c, now)
	}
	return over
}

// tooFast is the refusal of a caller whose bucket is empty.
func (g *Gate) tooFast(c *caller, now time.Time) *Refusal {
	missing := 1 - c.bucket.TokensAt(now)
	wait := time.Duration(missing / float64(g.limits.PerSecond) * float64(time.Second))
	return &Refusal{Limit: PerSecond, RetryAfter: wait.Round(time.Microsecond)}
}

// mayEnter finds the caller and says whether one more of its calls may be under
// way. The lock is held.
func (g *Gate) mayEnter(name string, open int, now time.Time) (*caller, *Refusal) {
	if now.Sub(g.adapted) >= adaptPause {
		g.adapt(now)
	}
	if g.total >= g.limits.Total {
		return nil, &Refusal{Limit: Total}
	}
	c := g.caller(name, now)
	if c == nil {
		return nil, &Refusal{Limit: Callers}
	}
	under := max(c.calls, open-1)
	quiet := g.quiet(under)
	switch {
	case !quiet && g.total >= g.limits.Total-g.limits.Total/reservedShare:
		return nil, &Refusal{Limit: Total}
	case g.total >= g.allowedFor(under, quiet):
		return nil, &Refusal{Limit: CPU}
	case c.calls >= g.limits.PerCaller, open > g.limits.PerCaller:
		return nil, &Refusal{Limit: PerCaller}
	}
	return c, nil
}

// allowedFor is how many calls may be under way for a call to be let in of a caller
// that has so many. While the CPUs are overloaded, a caller's only call has a reserve
// as large as all that others may have.
func (g *Gate) allowedFor(under int, quiet bool) int {
	switch {
	case under == 0:
		return 2 * g.allowed
	case quiet:
		return g.allowed + g.allowed/reservedShare
	default:
		return g.allowed
	}
}

// quiet reports whether a caller with so many calls has so few that it may use the
// reserve. However many calls each of the others has, a quiet caller gets in.
func (g *Gate) quiet(calls int) bool {
	return calls < max(1, min(g.limits.PerCaller/quietShare, quietPerCPU*cpulimit.CPUs()))
}

// Leave ends a call that was let in.
func (g *Gate) Leave(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.callers[name].calls--
	g.total--
}

// SetLimits puts other limits in force for what comes from now on. Calls under
// way go on, also if there are more of them than the new limits allow.
func (g *Gate) SetLimits(l Limits, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l = l.withDefaults()
	if l.PerSecond != g.limits.PerSecond {
		for _, c := range g.callers {
			c.bucket.SetLimitAt(now, rate.Limit(l.PerSecond))
			c.bucket.SetBurstAt(now, l.PerSecond)
		}
	}
	g.limits, g.allowed = l, l.Total
}

// adapt allows fewer calls when work waits too long for a CPU, and more again
// when it does not. Letting all in would have each wait for all, until their
// callers have given up.
func (g *Gate) adapt(now time.Time) {
	stale := now.Sub(g.adapted) > oldNews
	g.adapted = now
	switch wait := g.wait(); {
	case stale:
		g.allowed = g.limits.Total
	case wait > maxCPUWait:
		least := min(minAllowed*cpulimit.CPUs(), g.limits.Total)
		g.allowed = max(min(g.allowed, g.total)*3/4, least)
	default:
		g.allowed = min(g.allowed+g.allowed/8+1, g.limits.Total)
	}
}

// caller finds or makes what is known of a caller, nil if there is no room.
func (g *Gate) caller(name string, now time.Time) *caller {
	if now.Sub(g.swept) >= sweepPause {
		g.sweep(now)
	}
	c := g.callers[name]
	if c == nil && len(g.callers) < g.maxCallers {
		c = &caller{bucket: rate.NewLimiter(rate.Limit(g.limits.PerSecond), g.limits.PerSecond)}
		g.callers[name] = c
	}
	return c
}

// sweep forgets callers that are as good as new.
func (g *Gate) sweep(now time.Time) {
	g.swept = now
	for name, c := range g.callers {
		if c.calls == 0 && c.bucket.TokensAt(now) >= float64(g.limits.PerSecond) {
			delete(g.callers, name)
		}
	}
}
