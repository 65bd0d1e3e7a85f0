package sqlstore

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// probeInterval is the time between two checks of whether the database accepts writes.
const probeInterval = 10 * time.Second

// The kinds of writes whose failures are reported separately.
const (
	changes = "integrations cannot be changed, and grants cannot be revoked"
	uses    = "usage cannot be recorded"
)

// probe tries to write the row that every change writes first. All replicas together write
// it once per interval: a replica that finds that another one has written it recently
// neither locks nor writes.
func (s *Store) probe(ctx context.Context) {
	if s.cfg.program < changesVersion {
		return
	}
	limited, cancel := s.bounded(ctx)
	defer cancel()
	err := s.d.run(limited, s.db, batch{access: writing, first: func() []stmt {
		return []stmt{{
			query: `UPDATE registry_state SET probed_at = ` + s.d.now + ` WHERE id = 1
				AND NOT (probed_at > ` + s.d.now + ` - CAST(? AS BIGINT) AND probed_at <= ` + s.d.now + `)`,
			args: []any{(s.cfg.probing / 2).Microseconds()},
		}}
	}})
	if ctx.Err() == nil {
		s.wrote(changes, err)
	}
}

// wrote records the result of a write.
func (s *Store) wrote(kind string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known := s.trouble[kind]
	switch {
	case err == nil && known:
		delete(s.trouble, kind)
		s.cfg.Logger.Info("the integrations' database accepts writes again", "backend", s.d.name)
	case err != nil:
		s.trouble[kind] = reason(err)
		if !known {
			s.cfg.Logger.Error("the integrations' database did not accept a write", "backend", s.d.name, "consequence", kind, "error", err)
		}
	}
}

// reason returns the text of an error, with what a person can do about it.
func reason(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) && e.Code == "55P03" {
		return "a row or table stays locked (lock_timeout); find the session that holds the lock in pg_stat_activity: " + err.Error()
	}
	return err.Error()
}

// writeProblem returns what prevents writes to the database, or "".
func (s *Store) writeProblem() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var texts []string
	for _, kind := range slices.Sorted(maps.Keys(s.trouble)) {
		texts = append(texts, kind+": "+s.trouble[kind])
	}
	return strings.Join(texts, "; ")
}
