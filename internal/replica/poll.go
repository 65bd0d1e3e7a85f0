package replica

import (
	"context"
	"strings"
	"time"
	"unicode/utf8"
)

// shareable reports whether a database can store the texts of a sighting.
func shareable(k *Key, version string) bool {
	if version == "" {
		return false
	}
	for _, s := range [...]string{k.Integration, k.Store, k.Name, k.Version, version} {
		if len(s) > maxText || !utf8.ValidString(s) || strings.Contains(s, "\x00") {
			return false
		}
	}
	return true
}

func (t *Tracker) pollLoop(ctx context.Context) {
	timer := time.NewTimer(pollInterval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-t.polled:
		case <-t.cfg.Table.SightingNotices():
		}
		if err := t.poll(ctx); err != nil && ctx.Err() == nil {
			t.failed(notSeen, err)
		}
		next := pollInterval
		if due := t.applyDelayed(time.Now()); due < next {
			next = due
		}
		timer.Reset(next)
	}
}

// poll applies the rows that were written since the last poll.
func (t *Tracker) poll(ctx context.Context) error { return t.pollAnd(ctx, func() {}) }

// pollAnd is poll, and calls finish before the rows count as applied.
func (t *Tracker) pollAnd(ctx context.Context, finish func()) error {
	t.mu.Lock()
	last, previous, first := t.last, t.polledAt, t.polledAt.IsZero()
	t.mu.Unlock()
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, pollTime)
	defer cancel()
	c, err := t.cfg.Table.Changes(limited, last)
	if err != nil {
		return err
	}
	if !first && (c.Seq < last || c.Pruned > last) {
		return t.reset(ctx, c.Seq < last)
	}
	ended := time.Now()
	t.mu.Lock()
	t.noteClock(began, ended, c.Now, first)
	todo := make([]applied, 0, len(c.Rows))
	for i := range c.Rows {
		row := &c.Rows[i]
		if !first && row.Written > ended.Sub(previous)+jumpSlack {
			row.Age, row.ForcedAge, row.Fresh = 0, 0, false // the clock has jumped, or this machine was suspended
			t.unsettled = ended.Add(leaseTime)
		}
		if a, ok := t.take(row, began, ended); ok && !first {
			todo = append(todo, a)
		}
	}
	t.last, t.pruned, t.polledAt, t.now = c.Seq, c.Pruned, began, c.Now
	t.mu.Unlock()
	t.works(notSeen)
	acknowledge := false
	for i := range todo {
		t.apply(&todo[i])
		acknowledge = acknowledge || todo[i].acknowledge
	}
	finish()
	t.mu.Lock()
	t.applied = c.Seq
	t.mu.Unlock()
	if acknowledge {
		poked(t.ack)
	}
	return nil
}

// noteClock distrusts leases for a time if the database's clock has jumped since the last
// poll. It requires the lock.
func (t *Tracker) noteClock(began, ended time.Time, now time.Duration, first bool) {
	if first {
		return
	}
	passed := now - t.now
	if passed < began.Sub(t.polledAt)-jumpSlack-pollTime || passed > ended.Sub(t.polledAt)+jumpSlack {
		t.unsettled = ended.Add(leaseTime)
	}
}

// reset forgets everything and drops the cache: rows were deleted before this replica had
// seen them, or the database has gone back to an earlier state.
func (t *Tracker) reset(ctx context.Context, back bool) error {
	t.cfg.Logger.Warn("this replica missed what others have seen; it reads all secrets again", "database_went_back", back)
	t.mu.Lock()
	clear(t.mirror)
	t.last, t.polledAt = 0, time.Time{}
	t.unsettled = time.Now().Add(leaseTime)
	t.mu.Unlock()
	return t.pollAnd(ctx, t.cfg.DropAll)
}

// applied is a row that may supersede what the cache has.
type applied struct {
	id          ID
	key         Key
	row         seen
	acknowledge bool // a Confirm of another replica may wait for it
	versions    bool // the row has another replica's version
	fresh       bool // another replica has confirmed the version
	lag         time.Duration
}

// take puts a row into the mirror. ok is false if it tells this replica nothing. A row may be
// delivered again with one of its parts changed: the others keep their first effects and
// estimates. The poll began at asked, and now is its end. take requires the lock.
func (t *Tracker) take(row *Row, asked, now time.Time) (a applied, ok bool) {
	m := seen{seq: row.Seq, forcedMark: row.ForcedMark, version: row.Seen, own: row.By == t.id, at: max(t.since(now.Add(-max(row.Age, 0))), 1)}
	if row.Scheme != "" && row.Scheme != t.cfg.Scheme {
		m.version = "" // not comparable with what this replica computes
	}
	if row.Forced {
		m.forced, m.forcedOwner = max(t.since(now.Add(-max(row.ForcedAge, 0))), 1), row.ForcedBy == t.id
	}
	if row.Fresh && row.FreshAge >= 0 && m.version != "" { // an estimate that is too late would delay a read
		m.fresh, m.freshOwn = max(t.since(asked.Add(-row.FreshAge)), 1), row.FreshBy == t.id
	}
	before, known := t.mirror[row.ID]
	versions := !m.own && m.version != "" && (!known || before.version != m.version)
	forced := row.Forced && !m.forcedOwner
	if known && row.Forced && before.forcedMark == row.ForcedMark {
		m.forced, forced = before.forced, false
	}
	if known && before.version == m.version {
		m.at, m.own = before.at, before.own // the same sighting
	}
	// A Confirm also waits if its read began before that of an earlier Confirm, whose part of
	// the row is then delivered again.
	acknowledge := forced || row.Forced && row.ForcedAge < ackTime
	fresh := m.fresh != 0 && !m.freshOwn && (!known || m.fresh > before.fresh)
	if versions && !t.mayDrop(row.ID, row.Key, m.at, now) {
		m.at, versions = 0, false // it takes effect later
	}
	t.mirror[row.ID] = m
	return applied{id: row.ID, key: row.Key, row: m, acknowledge: acknowledge, versions: versions, fresh: fresh, lag: row.Age}, versions || acknowledge || fresh
}

// apply drops what is older than a row, and tells who watches the secret.
func (t *Tracker) apply(a *applied) {
	dropped := (a.versions || a.acknowledge) && t.cfg.Drop(a.key, func(version string, readAt time.Time) bool {
		return a.row.supersedes(version, t.since(readAt))
	})
	if dropped {
		t.mu.Lock()
		t.stats.Dropped++
		t.mu.Unlock()
	}
	if a.versions {
		t.cfg.Lag(max(a.lag, 0))
		t.cfg.Hint(a.key, a.row.version)
	}
	if a.fresh {
		t.cfg.Fresh(a.key, a.row.version, t.began.Add(time.Duration(a.row.fresh)))
	}
}

// The consequences of failures.
const (
	notSeen    = "this replica does not see the reads of others"
	notWritten = "other replicas do not see the reads of this one"
	notLeased  = "the lease of this replica is not renewed"
)

// failed notes a failure, and logs it if it is the first.
func (t *Tracker) failed(consequence string, err error) {
	t.mu.Lock()
	_, known := t.failing[consequence]
	t.failing[consequence] = err.Error()
	t.unsettled = time.Now().Add(leaseTime)
	t.mu.Unlock()
	if !known {
		t.cfg.Logger.Warn("replicas cannot share what they have read", "consequence", consequence, "error", err)
	}
}

// works notes that what had failed works.
func (t *Tracker) works(consequence string) {
	t.mu.Lock()
	_, known := t.failing[consequence]
	delete(t.failing, consequence)
	t.mu.Unlock()
	if known {
		t.cfg.Logger.Info("replicas can share again what they have read", "was", consequence)
	}
}
