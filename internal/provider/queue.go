package provider

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// waiter is a read that waits for its turn.
type waiter struct {
	deadline time.Time // zero for none
	waited   bool      // its turn was not at once
	refused  bool      // it gets no turn
	// lanes are those that it waits in, one for each caller that it is read for;
	// none once it has been admitted or refused.
	lanes []*lane
	// admitted gets a turn or an error, once.
	admitted chan admission
}

const (
	// useHalfLife is how fast it is forgotten what a caller has used.
	useHalfLife = time.Second
	// leastUse is what a read counts for at least, in seconds: where a store's pace
	// and not its latency is what is short, callers take turns.
	leastUse = 0.001
	// settleEvery is how exactly uses are kept.
	settleEvery = 10 * time.Millisecond
	// fewLanes are those that nothing is done about.
	fewLanes = 64
)

// lane is one caller at a limiter.
type lane struct {
	caller string
	queue  []*waiter
	served uint64 // when it last got a turn, or came

	// used is for how long the caller's ended reads have had places, in seconds of
	// one place, as far as that is not forgotten at the time of settled.
	used    float64
	settled time.Time
	running int
	began   float64 // the sum of when those began
}

// queue has the reads that wait at a limiter, by caller. The next turn is the caller's that has
// used the least recently. So callers get the same share of the places, and of the
// store's pace, however many reads each has in the queue. A caller that is alone gets
// all of it, and one that asks only now and then need not wait for those that ask
// all the time. A caller of which nothing is remembered begins with what the last one had
// used that got a turn: else a caller that has asked all along would wait until each of
// many newcomers has used as much. It is not safe for concurrent use.
type queue struct {
	epoch   time.Time
	lanes   map[string]*lane
	many    int     // lanes from which on some are to be forgotten
	order   []*lane // those in which somebody waits, in the order in which they came
	waiting int     // waiters, each counted once
	turns   uint64
	// level is what the caller of the last turn had used at the time of leveled.
	level   float64
	leveled time.Time
}

func newQueue(now time.Time) queue {
	return queue{epoch: now, leveled: now, lanes: make(map[string]*lane), many: fewLanes}
}

// settle forgets what the lane's caller used long ago.
func (l *lane) settle(now time.Time) {
	if past := now.Sub(l.settled); past >= settleEvery {
		l.used = forget(l.used, past)
		l.settled = now
	}
}

// forget returns what is remembered of a use after so long.
func forget(used float64, past time.Duration) float64 {
	return used * math.Exp2(-past.Seconds()/useHalfLife.Seconds())
}

// use is what the caller has used by now, where a read is expected to take typical, in
// seconds.
func (q *queue) use(l *lane, now time.Time, typical float64) float64 {
	l.settle(now)
	n := float64(l.running)
	return l.used + max(n*typical, n*now.Sub(q.epoch).Seconds()-l.began)
}

// lane returns a caller's.
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

// idle reports whether nothing is lost if the lane is forgotten.
func (l *lane) idle() bool { return len(l.queue) == 0 && l.running == 0 && l.used < leastUse }

// add puts w into a caller's lane, at its front or its end, unless it is there.
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
		// Before the one that had the last turn, and after those that wait already.
		q.order, l.served = append(q.order, l), max(l.served, 2*q.turns-min(1, q.turns))
	}
	at := len(l.queue)
	if front {
		at = 0
	}
	l.queue = slices.Insert(l.queue, at, w)
}

// remove takes w out of all lanes.
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

// tidy takes note of a lane that has become empty.
func (q *queue) tidy(l *lane) {
	if len(l.queue) > 0 {
		return
	}
	if i := slices.Index(q.order, l); i >= 0 {
		q.order = slices.Delete(q.order, i, i+1)
	}
}

// next returns the lane whose turn it is, nil if there is none. If newcomers, only the
// lanes of callers that have no read running get a turn.
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

// ended is the end of a turn that began then.
func (q *queue) ended(l *lane, began, now time.Time) {
	l.settle(now)
	l.used += max(now.Sub(began).Seconds(), leastUse)
	if l.running--; l.running == 0 {
		l.began = 0 // without what was rounded
	} else {
		l.began -= began.Sub(q.epoch).Seconds()
	}
}

// before is how many others will have had their turns before w, if those under way
// do not end: the k-th read of a caller is due when each of the others has used as
// much as this caller will have then.
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

// filter calls keep for each waiter in the order of their turns, and takes out
// those for which it is false.
func (q *queue) filter(now time.Time, typical float64, keep func(*waiter) bool) {
	type queued struct {
		w   *waiter
		due float64 // what its caller will have used when it is its turn
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
	seen := make(map[*waiter]bool, q.waiting) // and whether it is kept
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

// last returns the last waiter that is a caller's alone, nil if there is none.
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
