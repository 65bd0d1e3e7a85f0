package sqlstore

import (
	"context"
	"errors"
	"math"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/registry"
)

func principal(s string) authz.Principal { return authz.Principal(s) }

// Record implements registry.Store.
func (s *Store) Record(ctx context.Context, id string) (registry.Record, error) {
	records, err := s.records(ctx, func(t tx) ([]*row, error) {
		r, err := find(ctx, t, id)
		return []*row{r}, err
	})
	if err != nil {
		return registry.Record{}, err
	}
	return records[0], nil
}

// Records implements registry.Store.
func (s *Store) Records(ctx context.Context, page registry.Page) ([]registry.Record, error) {
	limit := page.Limit
	if limit <= 0 {
		limit = math.MaxInt32
	}
	return s.records(ctx, func(t tx) ([]*row, error) {
		rows, err := t.query(ctx, `SELECT `+rowColumns+` FROM integrations WHERE id > ? ORDER BY id LIMIT ?`, page.After, limit)
		if err != nil {
			return nil, err
		}
		return collect(rows, (*row).fields)
	})
}

// records completes rows to records, all of one point in time.
func (s *Store) records(ctx context.Context, read func(tx) ([]*row, error)) ([]registry.Record, error) {
	var rows []*row
	credentials := make(map[string]*kept)
	err := inTx(ctx, s.db, s.d, s.d.read, func(t tx) error {
		var err error
		if rows, err = read(t); err != nil {
			return err
		}
		clear(credentials)
		for _, r := range rows {
			credentials[r.id] = &kept{id: r.id}
		}
		query, args := `SELECT integration_id, name, sealed FROM credentials`, []any{}
		if len(rows) == 1 {
			query, args = query+` WHERE integration_id = ?`, []any{rows[0].id}
		}
		sealed, err := t.query(ctx, query, args...)
		if err != nil {
			return err
		}
		return s.addCredentials(sealed, credentials)
	})
	if errors.Is(err, registry.ErrNotFound) {
		return nil, err
	}
	if err != nil {
		return nil, unavailable(err)
	}
	records, look := make([]registry.Record, len(rows)), registry.NewLook()
	for i, r := range rows {
		k := credentials[r.id]
		parsed := registry.ParseDocument([]byte(r.spec), registry.DocumentConfig{Name: r.id, Credentials: k.credentials, Files: s.cfg.Files, Look: look})
		parsed.Faults = append(parsed.Faults, s.sealedFaults(r.id, parsed.Used, k.credentials)...)
		records[i] = r.record(parsed, k.names)
	}
	return records, nil
}
