package events

import (
	"container/heap"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/task"
)

const (
	// coalesceTime is the minimum time between the starts of two reads of a secret because
	// of hints: further hints within it cause one read at its end.
	coalesceTime = 2 * time.Second
	// readTime limits one read with its wait for a turn at the store.
	readTime = 15 * time.Second
	// young is how long after an event a store may still answer the version before it.
	young = 2 * time.Minute

	// The limits on concurrent reads: of all sources, of one source, and of one store of an
	// integration because of one source.
	maxReads, maxSourceReads, maxLaneReads = 64, 16, 2
	// The limits on reads per second of all sources and of one.
	readRate, sourceReadRate = 100, 50
)

// repeats are the pauses before a read is repeated whose store did not answer, or did not
// answer the version of the event: stores are eventually consistent.
var repeats = [...]time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 15 * time.Second}

// secretKey identifies what is read because of hints. Store is the canonical name.
type secretKey struct{ integration, store, name, label string }

// hinted is a secret for which there was a hint. reads.mu guards it.
type hinted struct {
	key secretKey
	// event is the last event about the secret. Its Version is the last one that was named
	// and that the store has not answered yet; "" if there is none.
	event provider.Event
	// always is whether an event since the last read named no version, so that the secret is
	// read even if it has the Version.
	always bool
	// youngUntil is until when the store may still answer the version before the event.
	youngUntil time.Time
	from       []*sourceQueue // the sources of the hints that have not been read for
	wanted     bool           // there was a hint since the last read began
	waiting    bool           // in the lanes of from
	running    bool
	startedAt  time.Time // of the last read
	attempt    int       // number of repeats
	due        time.Time
	index      int // in the heap, -1 if absent
}

// result is what reading for a task has led to.
type result uint8

const (
	readDone result = iota // read, or there was nothing to read any more
	readFailed
	readOutdated // the store answers another version than that of the event
)

// reads limits and orders the reads of all sources. Run must run for it to read.
type reads struct {
	// perform reads what is held of the secret of an event, unless it has the version of the
	// event and always is false. retryAfter is when to try again at the earliest.
	perform func(ctx context.Context, key secretKey, e *provider.Event, always bool) (r result, retryAfter time.Duration)
	wake    chan struct{} // capacity 1
	running sync.WaitGroup

	mu      sync.Mutex
	secrets map[secretKey]*hinted
	due     dueHeap
	order   []*sourceQueue // with waiting reads; the first is next
	active  int
	rate    *rate.Limiter
}

// sourceQueue is the waiting reads of one source. reads.mu guards it.
type sourceQueue struct {
	rate    *rate.Limiter
	active  int
	lanes   map[laneKey]*lane
	order   []*lane // with waiting reads; the first is next
	ordered bool    // in reads.order
	gaveUp  func(result)
}

type laneKey struct{ integration, store string }

// lane is the waiting reads of one store of an integration because of one source.
type lane struct {
	key    laneKey
	active int
	queue  []*hinted
	member map[*hinted]struct{} // of queue: a secret is in it once
}

func newReads() *reads {
	return &reads{wake: make(chan struct{}, 1), secrets: make(map[secretKey]*hinted), rate: rate.NewLimiter(readRate, readRate)}
}

// newQueue returns the queue of a source. gaveUp is called for each secret for which reading
// has ended without success.
func newQueue(gaveUp func(result)) *sourceQueue {
	return &sourceQueue{rate: rate.NewLimiter(sourceReadRate, sourceReadRate), lanes: make(map[laneKey]*lane), gaveUp: gaveUp}
}

// hint requests a read because of an event of a source. It keeps no part of the event but
// copies.
func (r *reads) hint(q *sourceQueue, key secretKey, e *provider.Event, youngUntil time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.secrets[key]
	if t == nil {
		key = secretKey{strings.Clone(key.integration), strings.Clone(key.store), strings.Clone(key.name), strings.Clone(key.label)}
		t = &hinted{key: key, index: -1}
		r.secrets[key] = t
	}
	// A read that will be repeated because of an earlier event about the same version serves
	// this one too.
	served := t.wanted && !t.running && t.event.Version == e.Version && t.attempt > 0
	expected := t.event.Version // an event without a version, or an old one, does not end the repeats
	if e.Version != "" {
		expected = strings.Clone(e.Version)
	} else {
		t.always = true
	}
	t.event = *e
	t.event.Store, t.event.Name, t.event.Label = t.key.store, t.key.name, t.key.label
	t.event.Suffix, t.event.Version = strings.Clone(e.Suffix), expected
	t.wanted = true
	if youngUntil.After(t.youngUntil) {
		t.youngUntil = youngUntil
	}
	if !served {
		t.attempt = 0
	}
	if !slices.Contains(t.from, q) {
		t.from = append(t.from, q)
	}
	switch {
	case t.running: // ended schedules the next read
	case t.waiting:
		r.push(q, t)
	case !served:
		r.schedule(t, t.startedAt.Add(coalesceTime))
	}
	r.poke()
}

// schedule sets when a secret is due. It requires the lock.
func (r *reads) schedule(t *hinted, due time.Time) {
	t.due = due
	if t.index >= 0 {
		heap.Fix(&r.due, t.index)
	} else {
		heap.Push(&r.due, t)
	}
}

// push makes a secret wait in the lane of a source. It requires the lock.
func (r *reads) push(q *sourceQueue, t *hinted) {
	key := laneKey{t.key.integration, t.key.store}
	l := q.lanes[key]
	if l == nil {
		l = &lane{key: key, member: make(map[*hinted]struct{})}
		q.lanes[key] = l
	}
	if _, ok := l.member[t]; ok {
		return
	}
	if len(l.queue) == 0 {
		q.order = append(q.order, l)
	}
	l.queue = append(l.queue, t)
	l.member[t] = struct{}{}
	if !q.ordered {
		q.ordered = true
		r.order = append(r.order, q)
	}
}

func (r *reads) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// run reads until ctx ends. It returns when the last read has ended.
func (r *reads) run(ctx context.Context) {
	defer r.running.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(r.tick(ctx, time.Now()))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-r.wake:
		}
	}
}

// idleWait is how long run waits if nothing is due.
const idleWait = time.Hour

// tick begins the reads whose turn has come, and returns the time until the next.
func (r *reads) tick(ctx context.Context, now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.due) > 0 && !r.due[0].due.After(now) {
		t := heap.Pop(&r.due).(*hinted)
		if !t.wanted {
			delete(r.secrets, t.key)
			continue
		}
		t.waiting = true
		for _, q := range t.from {
			r.push(q, t)
		}
	}
	wait := idleWait
	if len(r.due) > 0 {
		wait = r.due[0].due.Sub(now)
	}
	for {
		t, q, l, limited := r.next(now)
		if limited {
			wait = min(wait, time.Second/readRate)
		}
		if t == nil {
			break
		}
		r.begin(ctx, t, q, l, now)
	}
	return max(wait, 0)
}

// next returns the next secret to read, nil if there is none or a limit is reached. limited is
// whether the limit is one of a rate: that of a number wakes run at the end of a read. It
// requires the lock.
func (r *reads) next(now time.Time) (t *hinted, q *sourceQueue, l *lane, limited bool) {
	if r.active >= maxReads || len(r.order) == 0 {
		return nil, nil, nil, false
	}
	if r.rate.TokensAt(now) < 1 {
		return nil, nil, nil, true
	}
	for range len(r.order) {
		q := r.order[0]
		r.order = r.order[1:]
		if q.rate.TokensAt(now) < 1 {
			limited = true
			r.order = append(r.order, q)
			continue
		}
		t, l := q.next()
		if q.ordered = len(q.order) > 0; q.ordered {
			r.order = append(r.order, q)
		}
		if t != nil {
			r.rate.AllowN(now, 1)
			q.rate.AllowN(now, 1)
			return t, q, l, limited
		}
	}
	return nil, nil, nil, limited
}

// next returns the next secret of a source, nil if there is none or too many reads are active.
func (q *sourceQueue) next() (*hinted, *lane) {
	if q.active >= maxSourceReads {
		return nil, nil
	}
	for range len(q.order) {
		l := q.order[0]
		q.order = q.order[1:]
		var t *hinted
		if l.active < maxLaneReads {
			t = l.pop()
		}
		if len(l.queue) > 0 {
			q.order = append(q.order, l)
		}
		if t != nil {
			return t, l
		}
		q.drop(l)
	}
	return nil, nil
}

// pop returns the next secret of a lane that still waits, nil if there is none.
func (l *lane) pop() *hinted {
	for len(l.queue) > 0 {
		t := l.queue[0]
		l.queue[0] = nil
		l.queue = l.queue[1:]
		delete(l.member, t)
		if t.waiting { // otherwise it was read because of another source
			return t
		}
	}
	return nil
}

func (q *sourceQueue) drop(l *lane) {
	if l.active == 0 && len(l.queue) == 0 {
		delete(q.lanes, l.key)
	}
}

// begin reads a secret. It requires the lock.
func (r *reads) begin(ctx context.Context, t *hinted, q *sourceQueue, l *lane, now time.Time) {
	from := t.from
	t.from, t.wanted, t.waiting, t.running, t.startedAt = nil, false, false, true, now
	r.active++
	q.active++
	l.active++
	event, always := t.event, t.always
	t.always = false
	r.running.Go(func() {
		limited, cancel := context.WithTimeout(ctx, readTime)
		defer cancel()
		outcome, retryAfter := readFailed, time.Duration(0)
		_ = task.Contain(func() error { // a panic is a failure
			outcome, retryAfter = r.perform(limited, t.key, &event, always)
			return nil
		})
		r.mu.Lock()
		r.active--
		q.active--
		l.active--
		q.drop(l)
		t.running = false
		if outcome == readFailed {
			t.always = t.always || always
		}
		if outcome == readDone && t.event.Version == event.Version {
			t.event.Version = ""
		}
		gaveUp := ctx.Err() == nil && r.ended(t, from, outcome, retryAfter, time.Now())
		r.mu.Unlock()
		r.poke()
		if gaveUp {
			for _, q := range from {
				q.gaveUp(outcome)
			}
		}
	})
}

// ended schedules the next read of a secret, or its end. It reports whether reading has ended
// without success. It requires the lock.
func (r *reads) ended(t *hinted, from []*sourceQueue, outcome result, retryAfter time.Duration, now time.Time) (gaveUp bool) {
	again := t.startedAt.Add(coalesceTime)
	switch {
	case t.wanted, outcome == readDone:
	case t.attempt == len(repeats), outcome == readOutdated && now.After(t.youngUntil):
		gaveUp = true
		t.event.Version, t.always = "", false
	default:
		again = now.Add(max(repeats[t.attempt], retryAfter))
		t.attempt++
		t.wanted = true
		t.from = from
	}
	r.schedule(t, again)
	return gaveUp
}
