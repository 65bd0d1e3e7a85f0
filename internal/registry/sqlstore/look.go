package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/denial"
	"github.com/secretbroker/secretbroker/internal/elapsed"
	"github.com/secretbroker/secretbroker/internal/integration"
)

// state is the row of registry_state, and the role of the server that returned it.
type state struct {
	revision           int64
	stamp              string
	standby, readsOnly bool
}

func (d *dialect) stateInto(st *state) stmt {
	return stmt{query: d.state, row: into(&st.revision, &st.stamp, &st.standby, &st.readsOnly)}
}

// errNotPrimary means that the server is not the one that accepts writes. Its data may be
// out of date, permanently so if it was replaced by a failover.
var errNotPrimary = errors.New("registry.postgres.url leads to the wrong server, or a failover is in progress")

// check returns an error unless a writable primary returned the state. A former primary
// may keep answering for hours after a failover.
func (st *state) check() error {
	switch {
	case st.standby:
		return fmt.Errorf("the server is a standby (pg_is_in_recovery): %w", errNotPrimary)
	case st.readsOnly:
		return fmt.Errorf("the server is read-only (transaction_read_only): %w", errNotPrimary)
	}
	return nil
}

// follow is refresh for callers whose canceled context does not mean an outage. If the
// database cannot be read, it also closes idle connections. changed is whether the caller
// knows of a change, which saves the look.
func (s *Store) follow(ctx context.Context, changed bool) error {
	return s.followSince(ctx, time.Time{}, changed)
}

// followSince is follow, but does not look if a look that began after arrival has
// succeeded by the time of its turn. The zero time always makes it look.
func (s *Store) followSince(ctx context.Context, arrival time.Time, changed bool) error {
	err := s.refresh(ctx, arrival, changed)
	if err != nil && ctx.Err() == nil {
		// Other open connections were made to the same server. After a failover they may
		// hang or lead to a former primary.
		s.looks.SetMaxIdleConns(0)
		s.looks.SetMaxIdleConns(1)
		s.db.SetMaxIdleConns(0)
		s.db.SetMaxIdleConns(maxIdle)
	}
	return err
}

// refresh brings the snapshot up to date with the database and records whether the
// database could be read. It sets its own deadlines. For arrival see followSince.
func (s *Store) refresh(ctx context.Context, arrival time.Time, changed bool) error {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.turn }()
	if !arrival.IsZero() && s.seen.Load().After(arrival) {
		return nil
	}
	begin := s.cfg.Now()
	allowed, err := s.update(ctx, begin, changed)
	now := s.cfg.Now()
	if err == nil {
		s.seen.Store(&begin)
		s.plan(begin, 0) // from begin: after a slow look, the next one is due sooner
		if s.outage.Swap(nil) != nil {
			s.cfg.Logger.Info("the integrations' database can be read again", "backend", s.d.name)
		}
		return nil
	}
	if s.seen.Load() == nil || ctx.Err() != nil { // during start, or canceled by the caller
		return err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		s.link.timedOut()
	}
	if elapsed.Between(begin, now) <= allowed+slack { // otherwise the process was suspended
		s.plan(now, 0)
	}
	text := err.Error()
	if s.outage.Swap(&text) == nil {
		s.cfg.Logger.Error("the integrations' database cannot be read; the broker keeps serving what it read last until refuses_at",
			"backend", s.d.name, "refuses_at", s.seen.Load().Add(s.cfg.MaxOutage).UTC().Format(time.RFC3339), "error", err)
	}
	return err
}

// update looks at the database and loads what has changed. It returns the time limit that
// it applied.
func (s *Store) update(ctx context.Context, begin time.Time, changed bool) (time.Duration, error) {
	allowed := s.link.roundTrip()
	connecting := s.looks.Stats().Idle == 0
	if connecting {
		allowed += time.Duration(s.hosts) * s.link.connect()
	}
	s.planLook(begin, allowed)
	last := s.current.Load()
	if last.read && !changed {
		look, cancel := context.WithTimeout(ctx, allowed)
		defer cancel()
		sent := time.Now()
		var st state
		err := s.d.alone(look, s.looks, s.d.stateInto(&st))
		if err != nil {
			return allowed, err
		}
		if !connecting {
			s.link.measured(time.Since(sent))
		}
		if err := st.check(); err != nil {
			return allowed, err
		}
		if st.stamp == last.stamp && st.revision == last.revision {
			return allowed, nil
		}
	}
	allowed += s.link.load()
	s.planLook(begin, allowed)
	load, cancel := context.WithTimeout(ctx, allowed)
	defer cancel()
	next, ids, back, err := s.load(load, last)
	if err != nil {
		return allowed, err
	}
	s.publish(next, ids)
	if back {
		s.noteRestored(last, next, ids)
	}
	return allowed, nil
}

// load reads what has changed since last: from the change log if the log continues the
// history of last, otherwise from the complete list. back is whether the database's
// history does not continue that of last, as after a restore.
func (s *Store) load(ctx context.Context, last *snapshot) (next *snapshot, ids []string, back bool, err error) {
	var (
		st      state
		changes map[string]*kept
		denials = last.denials
	)
	if last.read && s.logged {
		changes, denials, err = s.readLog(ctx, last, &st)
	}
	if err == nil && changes == nil {
		var logged string
		changes, denials, logged, err = s.readList(ctx, last, &st)
		back = wentBack(last.position(), &st, logged)
	}
	if err == nil {
		err = st.check()
	}
	if err != nil {
		return nil, nil, false, err
	}
	look := integration.NewLook()
	for id, k := range changes {
		if k != nil {
			changes[id] = s.parse(ctx, k, last.get(id), look)
		}
	}
	next, ids = last.with(changes)
	next.read, next.revision, next.stamp, next.denials = true, st.revision, st.stamp, denials
	return next, ids, back, nil
}

// readLog reads the integrations that the change log lists after last's revision, and the
// deny list if the log lists a change of it. It returns nil unless the log proves that the current state follows from last: the log has
// last's revision with last's stamp, which exists in no other history; it has the current
// revision with the current stamp; and every revision in between names the stamp of the
// one before. The proof fails after a restored backup, a failover that lost commits, a
// write by a release without the log, and a manual edit.
func (s *Store) readLog(ctx context.Context, last *snapshot, st *state) (map[string]*kept, *denial.List, error) {
	var (
		ends, links, denying int64
		rows                 []*kept
		sealed               []*sealedCredential
		denied               []*denialRow
	)
	const named = `SELECT integration_id FROM registry_changes WHERE revision > ?`
	err := s.d.run(ctx, s.looks, batch{first: func() []stmt {
		rows, sealed = nil, nil
		return append([]stmt{
			s.d.stateInto(st),
			{query: `SELECT (SELECT count(*) FROM registry_changes WHERE revision = ? AND stamp = ?)
					+ (SELECT count(*) FROM registry_changes AS c JOIN registry_state AS s ON c.revision = s.revision AND c.stamp = s.stamp),
				(SELECT count(*) FROM registry_changes AS c JOIN registry_changes AS p ON p.revision = c.revision - 1 AND p.stamp = c.previous WHERE c.revision > ?),
				(SELECT count(*) FROM registry_changes WHERE revision > ? AND integration_id = '')`,
				args: []any{last.revision, last.stamp, last.revision, last.revision}, row: into(&ends, &links, &denying)},
			{query: `SELECT c.integration_id, coalesce(i.spec, ''), coalesce(i.etag, ''), coalesce(i.created_at, 0), coalesce(i.created_by, ''), coalesce(i.updated_at, 0), coalesce(i.updated_by, ''), coalesce(` + s.uid + `, '')
				FROM (SELECT DISTINCT integration_id FROM registry_changes WHERE revision > ?) AS c LEFT JOIN integrations AS i ON i.id = c.integration_id`,
				args: []any{last.revision}, row: each(&rows, (*kept).fields)},
			{query: `SELECT integration_id, name, sealed FROM credentials WHERE integration_id IN (` + named + `)`,
				args: []any{last.revision}, row: each(&sealed, (*sealedCredential).fields)},
		}, s.readDenials(&denied, ` WHERE EXISTS (SELECT 1 FROM registry_changes WHERE revision > ? AND integration_id = '')`, last.revision)...)
	}})
	if err != nil || ends != 2 || links != st.revision-last.revision {
		return nil, nil, err
	}
	changes := make(map[string]*kept)
	for _, k := range rows {
		old := last.get(k.id)
		switch {
		case k.etag == "" && old != nil:
			changes[k.id] = nil
		case k.etag != "" && (old == nil || old.etag != k.etag):
			changes[k.id] = k
		}
	}
	s.addCredentials(sealed, changes)
	denials := last.denials
	if denying > 0 {
		denials = denialsOf(denied)
	}
	return changes, denials, nil
}

// fewChanges is the number of integrations up to which readList selects them by id.
const fewChanges = 32

// readList reads the complete list of ids and etags, then the integrations that differ
// from last, and the deny list. The result is correct no matter what happened to the database in between.
// logged is the stamp that the change log has for last's revision, or "" if it has none.
func (s *Store) readList(ctx context.Context, last *snapshot, st *state) (changes map[string]*kept, denials *denial.List, logged string, err error) {
	var (
		listed, rows []*kept
		sealed       []*sealedCredential
		denied       []*denialRow
	)
	err = s.d.run(ctx, s.looks, batch{
		first: func() []stmt {
			listed, rows, sealed, logged = nil, nil, nil, ""
			stmts := []stmt{
				s.d.stateInto(st),
				{query: `SELECT id, etag FROM integrations`, row: each(&listed, (*kept).identity)},
			}
			if s.logged {
				stmts = append(stmts, stmt{query: `SELECT stamp FROM registry_changes WHERE revision = ?`, args: []any{last.revision}, row: into(&logged)})
			}
			return append(stmts, s.readDenials(&denied, "")...)
		},
		then: func() []stmt {
			changes = last.differences(listed)
			where, of := "", ""
			var args []any
			for id, k := range changes {
				if k != nil {
					args = append(args, id)
				}
			}
			if len(args) == 0 {
				return nil
			}
			if len(args) <= fewChanges { // beyond that, reading all of them is faster
				in := ` IN (?` + strings.Repeat(", ?", len(args)-1) + `)`
				where, of = ` WHERE id`+in, ` WHERE integration_id`+in
			} else {
				args = nil
			}
			return []stmt{
				{query: `SELECT ` + s.columns() + ` FROM integrations` + where, args: args, row: each(&rows, (*kept).fields)},
				{query: `SELECT integration_id, name, sealed FROM credentials` + of, args: args, row: each(&sealed, (*sealedCredential).fields)},
			}
		},
	})
	if err != nil {
		return nil, nil, "", err
	}
	for _, k := range rows {
		if changes[k.id] != nil {
			changes[k.id] = k
		}
	}
	s.addCredentials(sealed, changes)
	return changes, denialsOf(denied), logged, nil
}
