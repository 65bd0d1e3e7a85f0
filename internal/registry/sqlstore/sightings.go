package sqlstore

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/replica"
)

// sightingsChannel is the NOTIFY channel on which replicas announce sightings.
const sightingsChannel = "secretbroker_sightings"

// Replicas returns the table that the replicas of the broker share, or nil if only one
// broker uses the database.
func (s *Store) Replicas() replica.Table {
	if s.polls == nil || s.cfg.program < sightingsVersion {
		return nil
	}
	return sharedTable{s}
}

// sharedTable implements replica.Table with PostgreSQL.
type sharedTable struct{ s *Store }

// sightingRow is a row of Changes: the state, and a sighting unless its id is "".
type sightingRow struct {
	replica.Row
	seq, pruned, now        int64
	standby                 bool
	id                      string
	age, forcedAge, written int64
	freshAge                int64
}

func (r *sightingRow) fields() []any {
	return []any{&r.seq, &r.pruned, &r.now, &r.standby, &r.id, &r.Seq, &r.Integration, &r.Store, &r.Name, &r.Version, &r.Scheme, &r.Seen,
		&r.By, &r.ForcedMark, &r.ForcedBy, &r.Fresh, &r.FreshBy, &r.age, &r.forcedAge, &r.freshAge, &r.written}
}

// errNoState means that a table was emptied by hand or by an incomplete restore.
var errNoState = errors.New("the table sighting_state has no row: restore the database as a whole")

// Changes implements replica.Table. It uses a connection that nothing else uses, so that
// other work cannot delay it.
func (t sharedTable) Changes(ctx context.Context, since int64) (replica.Changes, error) {
	now := t.s.d.now
	var rows []*sightingRow
	err := t.s.d.alone(ctx, t.s.polls, stmt{
		query: `SELECT st.seq, st.pruned, ` + now + `, pg_is_in_recovery(), coalesce(r.id, ''), coalesce(r.seq, 0), coalesce(r.integration_id, ''), coalesce(r.store, ''),
			coalesce(r.secret, ''), coalesce(r.pinned, ''), coalesce(r.scheme, ''), coalesce(r.version, ''), coalesce(r.seen_by, ''), coalesce(r.forced_at, 0), coalesce(r.forced_by, ''),
			coalesce(r.fresh_at, 0) > 0, coalesce(r.fresh_by, ''), ` + now + ` - coalesce(r.read_at, 0), ` + now + ` - coalesce(r.forced_at, 0), ` + now + ` - coalesce(r.fresh_at, 0), ` + now + ` - coalesce(r.written_at, 0)
			FROM sighting_state AS st LEFT JOIN sightings AS r ON r.seq > CAST(? AS BIGINT) WHERE st.id = 1 ORDER BY r.seq`,
		args: []any{since}, row: each(&rows, (*sightingRow).fields),
	})
	switch {
	case err == nil && len(rows) == 0:
		err = errNoState
	case err == nil && rows[0].standby:
		err = fmt.Errorf("the server is a standby (pg_is_in_recovery): %w", errNotPrimary)
	}
	if err != nil {
		// The connection may hang or lead to a former primary.
		t.s.polls.SetMaxIdleConns(0)
		t.s.polls.SetMaxIdleConns(1)
		return replica.Changes{}, err
	}
	c := replica.Changes{Seq: rows[0].seq, Pruned: rows[0].pruned, Now: time.Duration(rows[0].now) * time.Microsecond}
	for _, r := range rows {
		if r.id == "" {
			continue
		}
		if n, err := hex.Decode(r.ID[:], []byte(r.id)); err != nil || n != len(r.ID) {
			return replica.Changes{}, fmt.Errorf("the table sightings has the id %q", r.id)
		}
		r.Forced = r.ForcedMark > 0
		r.Age, r.ForcedAge = time.Duration(r.age)*time.Microsecond, time.Duration(r.forcedAge)*time.Microsecond
		r.FreshAge, r.Written = time.Duration(r.freshAge)*time.Microsecond, time.Duration(r.written)*time.Microsecond
		c.Rows = append(c.Rows, r.Row)
	}
	return c, nil
}

// writing is a batch of t.s.db.
func (t sharedTable) write(ctx context.Context, stmts ...stmt) error {
	ctx, cancel := t.s.bounded(ctx)
	defer cancel()
	return t.s.d.run(ctx, t.s.db, batch{access: writing, first: func() []stmt { return stmts }})
}

// WriteSightings implements replica.Table. A row is written only if it has another version,
// of a later read, is forced, or has the row's version and a later fresh_at. A forced one is
// also written if it changes only seq: its writer waits until the others have seen it. A time in the
// future is that of a clock that was set back. A Confirmation has no read_at, so that it
// replaces no version.
func (t sharedTable) WriteSightings(ctx context.Context, by string, all []replica.Sighting) (seq int64, err error) {
	now := t.s.d.now
	// The ages were computed before the transaction began; it may wait for others.
	const sent = `CAST(1000000 * extract(epoch FROM transaction_timestamp()) AS BIGINT)`
	var values strings.Builder
	args := make([]any, 0, 12*len(all))
	for i := range all {
		v := &all[i]
		if i > 0 {
			values.WriteString(", ")
		}
		values.WriteString("(" + strings.Repeat("CAST(? AS TEXT), ", 7) + "CAST(? AS BIGINT), CAST(? AS BOOLEAN), CAST(? AS BIGINT), CAST(? AS BOOLEAN), CAST(? AS BIGINT), CAST(? AS BOOLEAN))")
		args = append(args, hex.EncodeToString(v.ID[:]), v.Integration, v.Store, v.Name, v.Version, v.Scheme, v.Seen,
			max(v.Age, 0).Microseconds(), v.Forced, max(v.ForcedAge, 0).Microseconds(), v.Fresh, max(v.FreshAge, 0).Microseconds(), v.Confirmation)
	}
	const later = `(excluded.version <> '' AND excluded.read_at > 0 AND (excluded.read_at >= s.read_at OR s.read_at > excluded.written_at))`
	const other = `(excluded.version <> s.version AND ` + later + `)`
	const forcedLater = `(excluded.forced_at > s.forced_at OR s.forced_at > excluded.written_at AND excluded.forced_at > 0)`
	const fresh = `(excluded.fresh_at > 0 AND excluded.version = s.version AND (excluded.fresh_at > s.fresh_at OR s.fresh_at > excluded.written_at))`
	args = append([]any{by, by, by}, args...)
	insert := stmt{args: args, query: `
		INSERT INTO sightings AS s (id, seq, integration_id, store, secret, pinned, scheme, version, read_at, seen_by, forced_at, forced_by, fresh_at, fresh_by, written_at)
		SELECT column1, (SELECT seq FROM sighting_state WHERE id = 1), column2, column3, column4, column5, column6, column7,
			CASE WHEN column13 THEN 0 ELSE ` + sent + ` - column8 END, CAST(? AS TEXT),
			CASE WHEN column9 THEN ` + sent + ` - column10 ELSE 0 END, CASE WHEN column9 THEN CAST(? AS TEXT) ELSE '' END,
			CASE WHEN column11 THEN ` + sent + ` - column12 ELSE 0 END, CASE WHEN column11 THEN CAST(? AS TEXT) ELSE '' END, ` + now + `
		FROM (VALUES ` + values.String() + `) AS v
		ON CONFLICT (id) DO UPDATE SET seq = excluded.seq, written_at = excluded.written_at,
			version   = CASE WHEN ` + later + ` THEN excluded.version ELSE s.version END,
			read_at   = CASE WHEN ` + later + ` THEN excluded.read_at ELSE s.read_at END,
			seen_by   = CASE WHEN ` + later + ` THEN excluded.seen_by ELSE s.seen_by END,
			forced_at = CASE WHEN ` + forcedLater + ` THEN excluded.forced_at ELSE s.forced_at END,
			forced_by = CASE WHEN ` + forcedLater + ` THEN excluded.forced_by ELSE s.forced_by END,
			fresh_at  = CASE WHEN ` + fresh + ` OR ` + other + ` THEN excluded.fresh_at ELSE s.fresh_at END,
			fresh_by  = CASE WHEN ` + fresh + ` OR ` + other + ` THEN excluded.fresh_by ELSE s.fresh_by END
		WHERE excluded.forced_at > 0 OR ` + fresh + ` OR ` + other}
	err = t.write(ctx,
		stmt{query: `UPDATE sighting_state SET seq = CASE WHEN seq >= ` + now + ` THEN seq + 1 ELSE ` + now + ` END WHERE id = 1 RETURNING seq`, row: into(&seq)},
		insert,
		stmt{query: "SELECT pg_notify('" + sightingsChannel + "', '')"})
	if err == nil && seq == 0 {
		err = errNoState
	}
	return seq, err
}

// PruneSightings implements replica.Table. Rows with lower numbers are older.
func (t sharedTable) PruneSightings(ctx context.Context, keep time.Duration, most int) error {
	return t.write(ctx,
		stmt{
			query: `UPDATE sighting_state SET pruned = coalesce((SELECT max(seq) FROM sightings WHERE seq > pruned AND (written_at < ` + t.s.d.now + ` - CAST(? AS BIGINT)
				OR seq <= (SELECT seq FROM sightings ORDER BY seq DESC LIMIT 1 OFFSET CAST(? AS BIGINT)))), pruned) WHERE id = 1`,
			args: []any{keep.Microseconds(), most},
		},
		stmt{query: `DELETE FROM sightings WHERE seq <= (SELECT pruned FROM sighting_state WHERE id = 1)`})
}

// abandonedLease is how long after serves_until a lease is deleted.
const abandonedLease = time.Hour

// RenewLease implements replica.Table. The commit does not wait for the disk: a lease that
// is lost with the server is renewed soon.
func (t sharedTable) RenewLease(ctx context.Context, l replica.Lease, expires, serves time.Duration) error {
	now := t.s.d.now
	return t.write(ctx,
		stmt{query: `SET LOCAL synchronous_commit = off`},
		stmt{
			query: `INSERT INTO replicas (id, name, applied, seen_at, expires_at, serves_until)
				VALUES (CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS BIGINT), ` + now + `, ` + now + ` + CAST(? AS BIGINT), ` + now + ` + CAST(? AS BIGINT))
				ON CONFLICT (id) DO UPDATE SET name = excluded.name, applied = excluded.applied, seen_at = excluded.seen_at, expires_at = excluded.expires_at, serves_until = excluded.serves_until`,
			args: []any{l.ID, text(l.Name), l.Applied, expires.Microseconds(), serves.Microseconds()},
		},
		stmt{
			query: `DELETE FROM replicas WHERE id <> CAST(? AS TEXT) AND (name = CAST(? AS TEXT) AND expires_at < ` + now + ` OR serves_until < ` + now + ` - CAST(? AS BIGINT))`,
			args:  []any{l.ID, text(l.Name), abandonedLease.Microseconds()},
		})
}

// leaseRow is a row of the table replicas.
type leaseRow struct {
	replica.Lease
	seenAt int64
}

// Leases implements replica.Table.
func (t sharedTable) Leases(ctx context.Context) ([]replica.Lease, error) {
	now := t.s.d.now
	var rows []*leaseRow
	err := t.s.d.alone(ctx, t.s.db, stmt{
		query: `SELECT id, name, applied, seen_at, expires_at > ` + now + `, serves_until > ` + now + ` FROM replicas ORDER BY name, id`,
		row:   each(&rows, func(r *leaseRow) []any { return []any{&r.ID, &r.Name, &r.Applied, &r.seenAt, &r.Live, &r.Serves} }),
	})
	if err != nil {
		return nil, err
	}
	leases := make([]replica.Lease, len(rows))
	for i, r := range rows {
		leases[i] = r.Lease
		leases[i].SeenAt = instant(r.seenAt)
	}
	return leases, nil
}

// ReleaseLease implements replica.Table.
func (t sharedTable) ReleaseLease(ctx context.Context, id string) error {
	return t.write(ctx, stmt{query: `DELETE FROM replicas WHERE id = ?`, args: []any{id}})
}

// SightingNotices implements replica.Table.
func (t sharedTable) SightingNotices() <-chan struct{} { return t.s.sightings }
