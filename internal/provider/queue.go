package provider

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// waiter is a read that is waiting for its turn.
type waiter struct {
	deadline time.Time // zero for none
	waited   bool      // it did not get a turn at once
	refused  bool      // it will not get a turn
	// lanes are the lanes in which it waits, one for each caller; empty after it was
	// admitted or refused.
	lanes []*lane
	// admitted receives a turn or an error, once.
	admitted chan admission
}

const (
	// useHalfLife is the half-life of the recorded use of a caller.
	useHalfLife = time.Second
	// leastUse is the minimum use of a read, in seconds. Where a store is limited by its
	// rate and not by its latency, it makes callers take turns.
	leastUse = 0.001
	// settleEvery is the resolution with which uses decay.
	settleEvery = 10 * time.Millisecond
	// fewLanes is the number of lanes below which idle lanes are not removed.
	fewLanes = 64
)

// lane is the queue of one caller at a limiter.
type lane struct {
	caller string
	queue  []*waiter
	served uint64 // the turn number when it last got a turn, or was created

	// used is the decayed time for which the caller's finished reads have occupied places,
	// in seconds of one place, as of settled.
	used    float64
	settled time.Time
	running int
	began   float64 // the sum of their start times
}

// queue holds the waiting reads of a limiter, by caller. The next turn goes to the caller
// with the least recent use. So all callers get the same share of the concurrent reads and
// of the store's rate, no matter how many reads each one has queued. A caller that is
// alone gets the full capacity, and a caller that asks rarely does not wait for those that
// ask all the time. A new caller starts with the use of the caller that had the last turn;
// if it started at zero, an active caller would wait until each of many new callers had
// used as much. It is not safe for concurrent use.
type queue struct {
	epoch   time.Time
	lanes   map[string]*lane
	many    int     // the number of lanes at which idle ones are removed
	order   []*lane // the lanes with waiters, in order of arrival
	waiting int     // waiters, each counted once
	turns   uint64
	// level is the use of the caller of the last turn, as of leveled.
	level   float64
	leveled time.Time
}

func newQueue(now time.Time) queue {
	return queue{epoch: now, leveled: now, lanes: make(map[string]*lane), many: fewLanes}
}

// settle applies the decay to the lane's use.
func (l *lane) settle(now time.Time) {
	if past := now.Sub(l.settled); past >= settleEvery {
		l.used = forget(l.used, past)
		l.settled = now
	}
}

// forget returns what remains of a use after the given time.
func forget(used float64, past time.Duration) float64 {
	return used * math.Exp2(-past.Seconds()/useHalfLife.Seconds())
}

// use returns the caller's use at now, including its running reads, if a read is expected
// to take typical seconds.
func (q *queue) use(l *lane, now time.Time, typical float64) float64 {
	l.settle(now)
	n := float64(l.running)
	return l.used + max(n*typical, n*now.Sub(q.epoch).Seconds()-l.began)
}

// lane returns the lane of a caller, and creates it if necessary.
func (q *queue) lane(caller string, now time.Time) *lane {
	l := q.lanes[caller]
	if l == nil {
		if len(q.lanes) >= q.many {
			for c, old := range q.lanes {
				if old.settle(now); old.idle() {
					delete(q.lanes, c)
				}
			}
			q.many = max(fewLanes, 2*len(q.lanes))
		}
		l = &lane{caller: caller, settled: now}
		q.lanes[caller] = l
	}
	return l
}

// idle reports whether the lane can be removed without losing state.
func (l *lane) idle() bool { return len(l.queue) == 0 && l.running == 0 && l.used < leastUse }

// add puts w at the front or the end of a caller's lane, unless it is already there.
func (q *queue) add(w *waiter, caller string, front bool, now time.Time) {
	l := q.lane(caller, now)
	if slices.Contains(w.lanes, l) {
		return
	}
	if len(w.lanes) == 0 {
		q.waiting++
	}
	w.lanes = append(w.lanes, l)
	if l.settle(now); l.idle() {
		l.used = max(l.used, forget(q.level, now.Sub(q.leveled)))
	}
	if len(l.queue) == 0 {
		// The new lane comes before the one that had the last turn, and after those that
		// are already waiting.
		q.order, l.served = append(q.order, l), max(l.served, 2*q.turns-min(1, q.turns))
	}
	at := len(l.queue)
	if front {
		at = 0
	}
	l.queue = slices.Insert(l.queue, at, w)
}

// remove removes w from all lanes.
func (q *queue) remove(w *waiter) {
	if len(w.lanes) == 0 {
		return
	}
	q.waiting--
	for _, l := range w.lanes {
		if i := slices.Index(l.queue, w); i >= 0 {
			l.queue = slices.Delete(l.queue, i, i+1)
		}
		q.tidy(l)
	}
	w.lanes = nil
}

// tidy removes an empty lane from order.
func (q *queue) tidy(l *lane) {
	if len(l.queue) > 0 {
		return
	}
	if i := slices.Index(q.order, l); i >= 0 {
		q.order = slices.Delete(q.order, i, i+1)
	}
}

// next returns the lane whose turn it is, or nil. If newcomers is set, only the lanes of
// callers without a running read get a turn.
func (q *queue) next(now time.Time, typical float64, newcomers bool) (l *lane) {
	least := 0.0
	for _, other := range q.order {
		if newcomers && other.running > 0 {
			continue
		}
		if use := q.use(other, now, typical); l == nil || use < least || use == least && other.served < l.served {
			l, least = other, use
		}
	}
	return l
}

// take takes out the waiter whose turn it is of those in the lane, one at least.
func (q *queue) take(l *lane, now time.Time, typical float64) *waiter {
	q.level, q.leveled = q.use(l, now, typical), now
	w := l.queue[0]
	q.remove(w)
	return w
}

// newcomer reports whether w waits for a caller that has no read running.
func (w *waiter) newcomer() bool {
	return slices.ContainsFunc(w.lanes, func(l *lane) bool { return l.running == 0 })
}

// begun charges a lane for a turn.
func (q *queue) begun(l *lane, now time.Time) {
	q.turns++
	l.running++
	l.began += now.Sub(q.epoch).Seconds()
	l.served = 2 * q.turns
}

// ended records the end of a turn that began at began.
func (q *queue) ended(l *lane, began, now time.Time) {
	l.settle(now)
	l.used += max(now.Sub(began).Seconds(), leastUse)
	if l.running--; l.running == 0 {
		l.began = 0 // drops rounding errors
	} else {
		l.began -= began.Sub(q.epoch).Seconds()
	}
}

// before returns the number of waiters that will get their turns before w if no running
// read ends: a caller's k-th read is due when every other caller has used as much as this
// caller will have used by then.
func (q *queue) before(w *waiter, now time.Time, typical float64) int {
	least := q.waiting
	for _, l := range w.lanes {
		k := slices.Index(l.queue, w)
		n, due := k, q.use(l, now, typical)+float64(k)*typical
		for _, other := range q.order {
			if other != l {
				n += min(len(other.queue), max(0, 1+int((due-q.use(other, now, typical))/typical)))
			}
		}
		least = min(least, n)
	}
	return least
}

// filter calls keep for each waiter in the order of their turns, and removes those for
// which it returns false.
func (q *queue) filter(now time.Time, typical float64, keep func(*waiter) bool) {
	type queued struct {
		w   *waiter
		due float64 // its caller's use at its turn
	}
	all := make([]queued, 0, q.waiting)
	for _, l := range q.order {
		due := q.use(l, now, typical)
		for _, w := range l.queue {
			all = append(all, queued{w, due})
			due += typical
		}
	}
	slices.SortStableFunc(all, func(a, b queued) int { return cmp.Compare(a.due, b.due) })
	seen := make(map[*waiter]bool, q.waiting) // value: whether it is kept
	for _, p := range all {
		if _, ok := seen[p.w]; !ok {
			seen[p.w] = keep(p.w)
		}
	}
	for _, l := range slices.Clone(q.order) {
		l.queue = slices.DeleteFunc(l.queue, func(w *waiter) bool { return !seen[w] })
		q.tidy(l)
	}
	for w, kept := range seen {
		if !kept {
			w.lanes = nil
			q.waiting--
		}
	}
}

// last returns the last waiter that belongs only to this caller, or nil.
func (q *queue) last(caller string) *waiter {
	l := q.lanes[caller]
	if l == nil {
		return nil
	}
	for _, w := range slices.Backward(l.queue) {
		if len(w.lanes) == 1 {
			return w
		}
	}
	return nil
}
