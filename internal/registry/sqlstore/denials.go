package sqlstore

import (
	"context"
	"errors"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/denial"
	"github.com/secretbroker/secretbroker/internal/registry"
)

// A change of the deny list is a change of the database like one of an integration: it has a
// revision and a stamp, and an entry in the log, with noIntegration. A look that finds it
// reads the whole list. Releases without the list ignore such an entry.
const noIntegration = ""

// denialRow is a row of the denials table.
type denialRow struct {
	principal, sha256, serial, issuer, reason, createdBy string
	expiresAt, createdAt                                 int64
}

const denialColumns = `principal, sha256, serial, issuer, reason, created_by, expires_at, created_at`

func (r *denialRow) fields() []any {
	return []any{&r.principal, &r.sha256, &r.serial, &r.issuer, &r.reason, &r.createdBy, &r.expiresAt, &r.createdAt}
}

func (r *denialRow) entry() denial.Entry {
	e := denial.Entry{
		Subject: denial.Subject{Principal: authz.Principal(r.principal), SHA256: r.sha256, Serial: r.serial, Issuer: r.issuer},
		Reason:  r.reason, CreatedAt: instant(r.createdAt), CreatedBy: authz.Principal(r.createdBy),
	}
	if r.expiresAt != 0 {
		e.ExpiresAt = instant(r.expiresAt)
	}
	return e
}

func denialsOf(rows []*denialRow) *denial.List {
	entries := make([]denial.Entry, len(rows))
	for i, r := range rows {
		entries[i] = r.entry()
	}
	return denial.NewList(entries)
}

// errNoDenials means that a newer schema is necessary; only tests have an older one.
var errNoDenials = errors.New("the schema has no deny list")

// Deny implements registry.DenialStore.
func (s *Store) Deny(ctx context.Context, e denial.Entry) (denial.Entry, error) {
	var stored denialRow
	changed, err := s.writeDenial(ctx, func() []stmt {
		stored = denialRow{}
		expires := int64(0)
		if !e.ExpiresAt.IsZero() {
			expires = max(e.ExpiresAt.UnixMicro(), 1)
		}
		key := e.Subject.String()
		return []stmt{
			{query: `DELETE FROM denials WHERE expires_at > 0 AND expires_at <= ` + s.d.now},
			{
				query: `INSERT INTO denials (subject, ` + denialColumns + `)
					SELECT CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS BIGINT), CAST(? AS BIGINT)
					WHERE (SELECT count(*) FROM denials) < CAST(? AS BIGINT) OR EXISTS (SELECT 1 FROM denials WHERE subject = CAST(? AS TEXT))
					ON CONFLICT (subject) DO UPDATE SET reason = excluded.reason, created_by = excluded.created_by, created_at = excluded.created_at,
						expires_at = CASE WHEN denials.expires_at = 0 OR excluded.expires_at = 0 THEN 0
							WHEN denials.expires_at > excluded.expires_at THEN denials.expires_at ELSE excluded.expires_at END`,
				args: []any{key, string(e.Principal), e.SHA256, e.Serial, e.Issuer, e.Reason, string(e.CreatedBy), expires, e.CreatedAt.UnixMicro(), denial.MaxEntries, key},
			},
			{query: `SELECT ` + denialColumns + ` FROM denials WHERE subject = ?`, args: []any{key}, row: into(stored.fields()...)},
		}
	}, 1)
	switch {
	case err != nil:
		return denial.Entry{}, err
	case changed == 0:
		return denial.Entry{}, denial.ErrFull
	}
	return stored.entry(), nil
}

// Undeny implements registry.DenialStore.
func (s *Store) Undeny(ctx context.Context, subject denial.Subject) error {
	changed, err := s.writeDenial(ctx, func() []stmt {
		return []stmt{{query: `DELETE FROM denials WHERE subject = ?`, args: []any{subject.String()}}}
	}, 0)
	if err == nil && changed == 0 {
		err = denial.ErrNotFound
	}
	return err
}

// writeDenial commits a change of the deny list and puts it into effect in this Store. It
// returns the number of rows that the statement with the index counted changed.
func (s *Store) writeDenial(ctx context.Context, stmts func() []stmt, counted int) (changed int64, err error) {
	if s.cfg.program < denialsVersion {
		return 0, unavailable(errNoDenials)
	}
	limited, cancel := s.bounded(ctx)
	defer cancel()
	var revision int64
	err = s.d.run(limited, s.db, batch{access: writing, first: func() []stmt {
		changed = 0
		own := stmts()
		own[counted].changed = &changed
		return s.notify(append(s.change(noIntegration, &revision), own...))
	}})
	if err != nil {
		if ctx.Err() == nil {
			s.wrote(changes, err)
		}
		return 0, unavailable(err)
	}
	s.wrote(changes, nil)
	s.followTo(context.WithoutCancel(ctx), revision)
	return changed, nil
}

// readDenials returns the statement that reads the deny list if the condition holds, and none
// with a schema that does not have the list.
func (s *Store) readDenials(rows *[]*denialRow, where string, args ...any) []stmt {
	if s.cfg.program < denialsVersion {
		return nil
	}
	*rows = nil
	return []stmt{{query: `SELECT ` + denialColumns + ` FROM denials` + where, args: args, row: each(rows, (*denialRow).fields)}}
}

// Denials returns the deny list as last read.
func (s *Store) Denials() *denial.List { return s.current.Load().denials }

// lostDenials returns the subjects that a restored database does not deny any more.
func lostDenials(last, next *denial.List, now time.Time) []string {
	var lost []string
	for _, e := range last.Entries() {
		if !e.Expired(now) && next.Get(e.Subject) == nil {
			lost = append(lost, e.Subject.String())
		}
	}
	return lost
}

var _ registry.DenialStore = (*Store)(nil)
