// Package admission limits the calls that the broker works on: how many calls one
// caller may make per second, how many calls of one caller may be active at the same
// time, and how many calls of all callers may be.
//
// A call passes two stages:
//
//  1. A Limiter admits or refuses the call at once, before the server has decoded the
//     request, so that a refusal costs almost no CPU time. The Limiter admits fewer
//     calls while work waits long for a CPU. It reserves a part of the capacity for
//     callers that have few active calls, so that a caller that makes many calls cannot
//     lock out the others.
//  2. A call that needs much CPU time then waits in a Queue for a slot. The Queue serves
//     callers in turn.
//
// The package knows neither gRPC nor the content of a call. It identifies a caller by
// a string.
package admission

import (
	"cmp"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/secretbroker/secretbroker/internal/cpulimit"
)

// Limits limits the calls. A field that is zero has its default.
type Limits struct {
	// PerSecond is the maximum number of calls per second of one caller: 5,000 by
	// default. The burst is as large.
	PerSecond int
	// PerCaller is the maximum number of active calls of one caller: by default 128
	// for each CPU.
	PerCaller int
	// Total is the maximum number of active calls: by default 1,024 for each CPU. If
	// the CPUs are the bottleneck, this is the number of calls that wait for them.
	// One eighth is reserved for callers that have few active calls.
	Total int
}

func (l Limits) withDefaults() Limits {
	return Limits{
		PerSecond: cmp.Or(l.PerSecond, 5000),
		PerCaller: cmp.Or(l.PerCaller, 128*cpulimit.CPUs()),
		Total:     cmp.Or(l.Total, 1024*cpulimit.CPUs()),
	}
}

// Limit is the name of a limit.
type Limit string

// The limits. PerSecond, PerCaller and Total have the names of their settings.
const (
	PerSecond Limit = "max_calls_per_second_per_principal"
	PerCaller Limit = "max_concurrent_calls_per_principal"
	Total     Limit = "max_concurrent_calls"
	// CPU is not a setting: the CPUs are overloaded.
	CPU Limit = "cpu"
	// Memory is not a setting: the callers' requests use more memory than they may.
	// A Limiter does not check it.
	Memory Limit = "memory"
	// Callers is not a setting: there are more callers than a Limiter can track.
	Callers Limit = "callers"
)

// All lists the limits.
var All = []Limit{PerSecond, PerCaller, Total, CPU, Memory, Callers}

// Refusal is the reason why a call was refused.
type Refusal struct {
	Limit Limit
	// RetryAfter is the time after which the Limiter can admit the caller's next
	// call; zero if that depends on when other calls end.
	RetryAfter time.Duration
}

const (
	// maxCallers is the maximum number of callers that a Limiter tracks, at about
	// 200 bytes each. It tracks only callers that made calls recently.
	maxCallers = 1 << 16
	// sweepPause is the minimum time between two removals of idle callers.
	sweepPause = 10 * time.Second
	// adaptPause is the minimum time between two measurements of the CPUs' load.
	adaptPause = 20 * time.Millisecond
	// maxCPUWait is the 90th percentile of the waits for a CPU above which the Limiter
	// refuses calls.
	maxCPUWait = 200 * time.Millisecond
	// staleAfter is the age at which a measurement of the CPUs no longer counts.
	staleAfter = time.Second
	// minAllowed is the number of calls for each CPU that the Limiter admits however
	// overloaded the CPU is.
	minAllowed = 16
	// reservedShare is the reciprocal of the part of Total that only quiet callers
	// may use, see quiet.
	reservedShare = 8
	// quietShare and quietPerCPU limit the active calls of a quiet caller.
	quietShare  = 16
	quietPerCPU = 8
)

// Limiter admits calls. It is safe for concurrent use. It starts no goroutine, so
// there is nothing to close.
type Limiter struct {
	maxCallers int

	mu      sync.Mutex
	limits  Limits
	callers map[string]*caller
	total   int // active calls
	// allowed is the number of calls that may be active now: limits.Total, or less
	// while the CPUs are overloaded.
	allowed int
	adapted time.Time
	// wait returns how long work has waited for a CPU since the previous call of wait.
	wait  func() time.Duration
	swept time.Time
}

// caller is the state of one caller. When the caller has no active call and its
// bucket is full, the state equals that of a new caller and can be removed.
type caller struct {
	bucket *rate.Limiter
	calls  int // active
}

// New returns a Limiter.
func New(l Limits) *Limiter {
	l = l.withDefaults()
	return &Limiter{maxCallers: maxCallers, limits: l, allowed: l.Total, wait: newCPUWait().since, callers: make(map[string]*caller)}
}

// Acquire admits a call or refuses it. The caller of Acquire calls Release when an
// admitted call ends. open is the number of open calls of the caller, including this
// one and those whose requests or answers are still in transit; Acquire uses it if it
// is larger than the number of active calls. now should not go backwards between calls.
func (lim *Limiter) Acquire(name string, open int, now time.Time) *Refusal {
	lim.mu.Lock()
	defer lim.mu.Unlock()
	c, over := lim.mayEnter(name, open, now)
	if over != nil {
		return over
	}
	if !c.bucket.AllowN(now, 1) {
		return lim.tooFast(c, now)
	}
	c.calls++
	lim.total++
	return nil
}

// Check returns the refusal that Acquire would return, nil if Acquire would admit the
// call. It changes no counter.
func (lim *Limiter) Check(name string, open int, now time.Time) *Refusal {
	lim.mu.Lock()
	defer lim.mu.Unlock()
	c, over := lim.mayEnter(name, open, now)
	if over == nil && c.bucket.TokensAt(now) < 1 {
		over = lim.tooFast(c, now)
	}
	return over
}

// tooFast returns the refusal of a caller whose bucket is empty.
func (lim *Limiter) tooFast(c *caller, now time.Time) *Refusal {
	missing := 1 - c.bucket.TokensAt(now)
	wait := time.Duration(missing / float64(lim.limits.PerSecond) * float64(time.Second))
	return &Refusal{Limit: PerSecond, RetryAfter: wait.Round(time.Microsecond)}
}

// mayEnter returns the caller's state, or a refusal if no further call of the caller
// may be active. It requires the lock.
func (lim *Limiter) mayEnter(name string, open int, now time.Time) (*caller, *Refusal) {
	if now.Sub(lim.adapted) >= adaptPause {
		lim.adapt(now)
	}
	if lim.total >= lim.limits.Total {
		return nil, &Refusal{Limit: Total}
	}
	c := lim.caller(name, now)
	if c == nil {
		return nil, &Refusal{Limit: Callers}
	}
	under := max(c.calls, open-1)
	quiet := lim.quiet(under)
	switch {
	case !quiet && lim.total >= lim.limits.Total-lim.limits.Total/reservedShare:
		return nil, &Refusal{Limit: Total}
	case lim.total >= lim.allowedFor(under, quiet):
		return nil, &Refusal{Limit: CPU}
	case c.calls >= lim.limits.PerCaller, open > lim.limits.PerCaller:
		return nil, &Refusal{Limit: PerCaller}
	}
	return c, nil
}

// allowedFor returns the total number of active calls below which a further call of a
// caller is admitted; under is the number of the caller's active calls. While the CPUs
// are overloaded, the only call of a caller may use a reserve as large as allowed.
func (lim *Limiter) allowedFor(under int, quiet bool) int {
	switch {
	case under == 0:
		return 2 * lim.allowed
	case quiet:
		return lim.allowed + lim.allowed/reservedShare
	default:
		return lim.allowed
	}
}

// quiet reports whether a caller with so many active calls may use the reserve. A quiet
// caller is admitted however many calls each other caller has.
func (lim *Limiter) quiet(calls int) bool {
	return calls < max(1, min(lim.limits.PerCaller/quietShare, quietPerCPU*cpulimit.CPUs()))
}

// Release ends a call that Acquire admitted.
func (lim *Limiter) Release(name string) {
	lim.mu.Lock()
	defer lim.mu.Unlock()
	lim.callers[name].calls--
	lim.total--
}

// Active returns how many admitted calls have not been released.
func (lim *Limiter) Active() int {
	lim.mu.Lock()
	defer lim.mu.Unlock()
	return lim.total
}

// SetLimits replaces the limits for calls from now on. Active calls continue, even if
// there are more of them than the new limits allow.
func (lim *Limiter) SetLimits(l Limits, now time.Time) {
	lim.mu.Lock()
	defer lim.mu.Unlock()
	l = l.withDefaults()
	if l.PerSecond != lim.limits.PerSecond {
		for _, c := range lim.callers {
			c.bucket.SetLimitAt(now, rate.Limit(l.PerSecond))
			c.bucket.SetBurstAt(now, l.PerSecond)
		}
	}
	lim.limits, lim.allowed = l, l.Total
}

// adapt reduces allowed while work waits too long for a CPU, and raises it otherwise.
// If the Limiter admitted all calls on an overloaded CPU, each would wait for all
// others until its client had given up, and all the work would be lost.
func (lim *Limiter) adapt(now time.Time) {
	stale := now.Sub(lim.adapted) > staleAfter
	lim.adapted = now
	switch wait := lim.wait(); {
	case stale:
		lim.allowed = lim.limits.Total
	case wait > maxCPUWait:
		least := min(minAllowed*cpulimit.CPUs(), lim.limits.Total)
		lim.allowed = max(min(lim.allowed, lim.total)*3/4, least)
	default:
		lim.allowed = min(lim.allowed+lim.allowed/8+1, lim.limits.Total)
	}
}

// caller returns the state of a caller; it creates it if needed. It returns nil if
// there is no room.
func (lim *Limiter) caller(name string, now time.Time) *caller {
	if now.Sub(lim.swept) >= sweepPause {
		lim.sweep(now)
	}
	c := lim.callers[name]
	if c == nil && len(lim.callers) < lim.maxCallers {
		c = &caller{bucket: rate.NewLimiter(rate.Limit(lim.limits.PerSecond), lim.limits.PerSecond)}
		lim.callers[name] = c
	}
	return c
}

// sweep removes the state of idle callers.
func (lim *Limiter) sweep(now time.Time) {
	lim.swept = now
	for name, c := range lim.callers {
		if c.calls == 0 && c.bucket.TokensAt(now) >= float64(lim.limits.PerSecond) {
			delete(lim.callers, name)
		}
	}
}
