package replica

import "time"

const (
	// dropBurst is the number of drops of one secret that are not delayed, and dropInterval
	// the time after which another one is allowed. A store that returns old and new versions
	// in turns makes replicas drop each other's reads; without a limit they would read it
	// in a loop.
	dropBurst    = 4
	dropInterval = 30 * time.Second
)

// dropState limits the drops of one secret.
type dropState struct {
	key    Key
	used   float64 // drops, reduced by one every dropInterval
	at     time.Time
	waits  bool      // a drop is delayed until due
	due    time.Time // only if waits
	supers int64     // the seen.at of the delayed drop
}

// mayDrop counts a drop for a row and reports whether it may take effect now. Otherwise
// applyDelayed makes it take effect. It requires the lock.
func (t *Tracker) mayDrop(id ID, k Key, at int64, now time.Time) bool {
	d := t.drops[id]
	if d == nil {
		d = &dropState{key: k, at: now}
		t.drops[id] = d
	}
	d.used = max(0, d.used-float64(now.Sub(d.at))/float64(dropInterval))
	d.at = now
	if !d.waits && d.used <= dropBurst-1 {
		d.used++
		return true
	}
	if !d.waits {
		t.delayed++
		d.waits, d.due = true, now.Add(time.Duration((d.used-(dropBurst-1))*float64(dropInterval)))
	}
	d.supers = at
	t.stats.Delayed++
	return false
}

// applyDelayed makes delayed drops take effect that are due, and returns the time until the
// next. It forgets secrets without recent drops.
func (t *Tracker) applyDelayed(now time.Time) (next time.Duration) {
	next = pollInterval
	var todo []applied
	t.mu.Lock()
	if t.delayed == 0 && now.Sub(t.cleaned) < dropInterval {
		t.mu.Unlock()
		return next
	}
	t.cleaned = now
	for id, d := range t.drops {
		switch {
		case d.waits && !now.Before(d.due):
			d.waits = false
			t.delayed--
			d.used = max(0, d.used-float64(now.Sub(d.at))/float64(dropInterval)) + 1
			d.at = now
			if m, ok := t.mirror[id]; ok && !m.own && m.at == 0 {
				m.at = d.supers
				t.mirror[id] = m
				todo = append(todo, applied{id: id, key: d.key, row: m, versions: true, lag: time.Duration(t.since(now) - d.supers)})
			}
		case d.waits:
			next = min(next, d.due.Sub(now))
		case now.Sub(d.at) > dropBurst*dropInterval:
			delete(t.drops, id)
		}
	}
	t.mu.Unlock()
	for i := range todo {
		t.apply(&todo[i])
	}
	return next
}
