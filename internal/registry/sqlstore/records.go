package sqlstore

import (
	"context"
	"math"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
)

func principal(s string) authz.Principal { return authz.Principal(s) }

// Record implements registry.Store.
func (s *Store) Record(ctx context.Context, id string) (registry.Record, error) {
	records, err := s.records(ctx, ` WHERE id = ?`, ` WHERE integration_id = ?`, id)
	if err != nil {
		return registry.Record{}, err
	}
	if len(records) == 0 {
		return registry.Record{}, registry.ErrNotFound
	}
	return records[0], nil
}

// Records implements registry.Store.
func (s *Store) Records(ctx context.Context, page registry.Page) ([]registry.Record, error) {
	limit := page.Limit
	if limit <= 0 {
		limit = math.MaxInt32
	}
	const ids = ` WHERE integration_id IN (SELECT id FROM integrations WHERE id > ? ORDER BY id LIMIT ?)`
	return s.records(ctx, ` WHERE id > ? ORDER BY id LIMIT ?`, ids, page.After, limit)
}

// records reads rows and their credentials as of one point in time.
func (s *Store) records(ctx context.Context, which, whose string, args ...any) ([]registry.Record, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var rows []*row
	var sealed []*sealedCredential
	err := s.d.run(ctx, s.db, batch{first: func() []stmt {
		rows, sealed = nil, nil
		return []stmt{
			{query: `SELECT ` + rowColumns + ` FROM integrations` + which, args: args, row: each(&rows, (*row).fields)},
			{query: `SELECT integration_id, name, sealed FROM credentials` + whose, args: args, row: each(&sealed, (*sealedCredential).fields)},
		}
	}})
	if err != nil {
		return nil, unavailable(err)
	}
	credentials := make(map[string]*kept, len(rows))
	for _, r := range rows {
		credentials[r.id] = &kept{id: r.id}
	}
	s.addCredentials(sealed, credentials)
	records, look := make([]registry.Record, len(rows)), integration.NewLook()
	for i, r := range rows {
		k := credentials[r.id]
		parsed := s.cfg.Kinds.ParseDocument([]byte(r.spec), integration.DocumentConfig{Name: r.id, Credentials: k.credentials, Files: s.cfg.Files, Look: look})
		parsed.Faults = append(parsed.Faults, s.sealedFaults(ctx, r.id, parsed.Used, k.credentials)...)
		records[i] = r.record(parsed, k.names)
	}
	return records, nil
}
