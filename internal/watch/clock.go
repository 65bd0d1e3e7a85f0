package watch

import (
	"container/heap"
	"context"
	"slices"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
)

// laneReads is the maximum number of concurrent reads that the Hub makes of one store of an
// integration, so that a store that hangs occupies few goroutines and delays no other.
const laneReads = 4

// readTime limits one read with its wait for a turn at the store.
const readTime = 15 * time.Second

type laneKey struct{ integration, store string }

// lane is the reads of one store of an integration. Principals take turns in it. Hub.mu
// guards it.
type lane struct {
	key     laneKey
	running int
	order   []authz.Principal // with waiting reads; the first is next
	waiting map[authz.Principal][]*target
}

// push adds a read on behalf of a principal, of which there are at most twice most: then
// push removes those of targets that are not read any more. A store that hangs would
// otherwise let a principal that opens streams again and again fill the memory.
func (l *lane) push(who authz.Principal, t *target, most int) {
	queue := l.waiting[who]
	if len(queue) == 0 {
		l.order = append(l.order, who)
	}
	if len(queue) >= 2*most {
		seen := make(map[*target]bool, most)
		queue = slices.DeleteFunc(queue, func(t *target) bool {
			dead := seen[t] || t.allowed == 0 || !slices.Contains(t.queuedBy, who)
			seen[t] = true
			return dead
		})
	}
	l.waiting[who] = append(queue, t)
}

// pop returns the next read, nil if there is none.
func (l *lane) pop() (*target, authz.Principal) {
	for len(l.order) > 0 {
		who := l.order[0]
		queue := l.waiting[who]
		t := queue[0]
		l.order = l.order[1:]
		if queue = queue[1:]; len(queue) == 0 {
			delete(l.waiting, who)
		} else {
			l.waiting[who] = queue
			l.order = append(l.order, who)
		}
		if i := slices.Index(t.queuedBy, who); i >= 0 { // otherwise it was read for another principal
			t.queuedBy = slices.Delete(t.queuedBy, i, i+1)
			if t.allowed > 0 {
				return t, who
			}
		}
	}
	return nil, ""
}

// enqueue makes a read of a target wait for its turn. It requires the lock.
func (h *Hub) enqueue(t *target, who authz.Principal) {
	if t.running || slices.Contains(t.queuedBy, who) {
		return
	}
	key := laneKey{t.key.Integration, t.key.Store}
	l := h.lanes[key]
	if l == nil {
		l = &lane{key: key, waiting: make(map[authz.Principal][]*target)}
		h.lanes[key] = l
	}
	t.queuedBy = append(t.queuedBy, who)
	l.push(who, t, h.cfg.MaxSecretsPerPrincipal)
	h.busy[l] = struct{}{}
}

// mostTurns is the number of principals that turnFor compares.
const mostTurns = 100

// turnFor returns the principal whose turn a read by the clock takes: of those that watch the
// target, the one that watches the fewest secrets. So a principal that watches many delays
// only its own. It requires the lock.
func (h *Hub) turnFor(t *target) (who authz.Principal) {
	least := 0
	consider := func(p authz.Principal, w *watcher) {
		if n := len(w.secrets); w.secrets[t] > 0 && (least == 0 || n < least) {
			who, least = p, n
		}
	}
	if len(t.items) <= mostTurns {
		for _, it := range t.items {
			consider(it.stream.who, h.watchers[it.stream.who])
		}
		return who
	}
	looked := 0
	for p, w := range h.watchers { // in a random order
		if looked++; looked > mostTurns && who != "" {
			break
		}
		consider(p, w)
	}
	return who
}

// Run reads watched secrets again in time, until ctx ends. It returns when the last read
// has ended. It is called once.
func (h *Hub) Run(ctx context.Context) error {
	defer h.reads.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		wait := h.tick(ctx, time.Now())
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-h.wake:
		}
	}
}

// idleWait is how long Run waits if nothing is due.
const idleWait = time.Hour

// tick begins the reads that are due, and returns the time until the next.
func (h *Hub) tick(ctx context.Context, now time.Time) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.due) > 0 && !h.due[0].next().After(now) {
		t := heap.Pop(&h.due).(*target)
		if !t.leadDue.IsZero() && !t.leadDue.After(now) {
			t.leadDue = time.Time{}
			t.markItems()
		}
		readDue := t.readDue
		if !readDue.IsZero() && !readDue.After(now) {
			readDue = time.Time{}
			if t.kept {
				h.unkeep(t)
				continue
			}
			t.byClock = true
			h.enqueue(t, h.turnFor(t))
		}
		h.schedule(t, readDue)
	}
	wait := idleWait
	if len(h.due) > 0 {
		wait = h.due[0].next().Sub(now)
	}
	for l := range h.busy {
		for l.running < laneReads {
			if h.rate.TokensAt(now) < 1 {
				return min(wait, time.Second/time.Duration(h.cfg.MaxReadsPerSecond)+time.Millisecond)
			}
			t, who := l.pop()
			if t == nil {
				delete(h.busy, l)
				h.dropLane(l)
				break
			}
			h.rate.AllowN(now, 1)
			h.begin(ctx, l, t, who, now)
		}
	}
	return max(wait, 0)
}

func (h *Hub) dropLane(l *lane) {
	if l.running == 0 && len(l.order) == 0 {
		delete(h.lanes, l.key)
	}
}

// begin reads a target. It requires the lock.
func (h *Hub) begin(ctx context.Context, l *lane, t *target, who authz.Principal, now time.Time) {
	// The store's queue charges the first read to the principal that wants it, and later
	// ones, which all watchers want, to the Hub.
	again := t.known || t.byClock
	if again {
		who = ""
	}
	fresh := again && !t.generated
	poll := t.byClock && t.hintedAt.IsZero() && h.polls(t) && (t.expiresAt.IsZero() || now.Before(t.expiresAt))
	t.queuedBy, t.byClock, t.hintedAt, t.running, t.startedAt = nil, false, time.Time{}, true, now
	l.running++
	if poll {
		h.stats.Polls++
	} else {
		h.stats.Reads++
	}
	h.reads.Go(func() {
		read := !poll || h.pollOnce(ctx, t)
		if read {
			h.read(ctx, t, who, fresh)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if poll && read {
			h.stats.Reads++
		}
		l.running--
		t.running = false
		if t.again {
			t.again = false
			h.readSoon(t)
		}
		if t.readDue.IsZero() && t.allowed > 0 && !t.endless() { // nothing was learned
			h.schedule(t, time.Now().Add(retryInterval))
		}
		if len(l.order) > 0 {
			h.busy[l] = struct{}{}
		}
		h.dropLane(l)
		h.poke()
	})
}

// read reads a target and observes the outcome. fresh requires a new read.
func (h *Hub) read(ctx context.Context, t *target, who authz.Principal, fresh bool) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	load, ok := h.reader.Read(ctx, who, t.key.Integration, t.ref, fresh)
	if !ok || ctx.Err() != nil && load.Err != nil && ctx.Err() == context.Canceled {
		return // there is no integration, only a stale value, or the broker ends
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.targets[t.key] == t {
		h.observe(t, &load)
	}
}
