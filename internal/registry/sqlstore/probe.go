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

// probeInterval is how often it is tried whether the database takes writes.
const probeInterval = 10 * time.Second

// The kinds of writes whose failures are told apart.
const (
	changes = "integrations cannot be changed, and grants cannot be revoked"
	uses    = "usage cannot be recorded"
)

// probe tries to write the row that every change writes first. All replicas
// together write it once in each interval; a replica that comes later finds that
// another one could, and neither locks nor writes anything.
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

// wrote notes what came of a write.
func (s *Store) wrote(kind string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known := s.trouble[kind]
	switch {
	case err == nil && known:
		delete(s.trouble, kind)
		s.cfg.Logger.Info("the integrations' database takes writes again", "backend", s.d.name)
	case err != nil:
		s.trouble[kind] = reason(err)
		if !known {
			s.cfg.Logger.Error("the integrations' database does not take a write", "backend", s.d.name, "consequence", kind, "error", err)
		}
	}
}

// reason is what a person can do something about.
func reason(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) && e.Code == "55P03" {
		return "a row or table stays locked (lock_timeout); look for the session that holds it in pg_stat_activity: " + err.Error()
	}
	return err.Error()
}

// writeProblem says what keeps the database from being written, "" if nothing does.
func (s *Store) writeProblem() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var texts []string
	for _, kind := range slices.Sorted(maps.Keys(s.trouble)) {
		texts = append(texts, kind+": "+s.trouble[kind])
	}
	return strings.Join(texts, "; ")
}
