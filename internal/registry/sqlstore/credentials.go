package sqlstore

import (
	"context"
	"crypto/rand"
	"slices"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry/seal"
)

// maxCredential is the maximum size of a stored credential, in bytes.
const maxCredential = 64 << 10

// associatedData binds a sealed credential to its integration and name. It then opens for
// no other, so write access to the database is not enough to give one integration the
// credential of another.
func associatedData(id, name string) string { return "integration/" + id + "/" + name }

// opener returns a func that opens a credential when it is needed.
func (s *Store) opener(id, name string, sealed []byte) integration.Credential {
	return func(ctx context.Context) ([]byte, error) {
		if s.cfg.Sealer == nil {
			return nil, seal.ErrCannotOpen
		}
		return s.cfg.Sealer.Open(ctx, sealed, associatedData(id, name))
	}
}

// resealing is the number of credentials that one transaction seals again.
const resealing = 50

// Reseal seals every credential with the current key that is sealed with another key, and
// returns their number. It does the same for the keys of SealedKey. It skips credentials that no available key opens, and those that
// change while it runs.
func (s *Store) Reseal(ctx context.Context) (int, error) {
	if s.cfg.Sealer == nil {
		return 0, nil
	}
	if err := s.resealKeys(ctx); err != nil {
		return 0, err
	}
	stale, err := s.stale(ctx)
	if err != nil {
		return 0, unavailable(err)
	}
	var done int64
	for some := range slices.Chunk(stale, resealing) {
		n, err := s.reseal(ctx, some)
		if err != nil {
			return int(done), unavailable(err)
		}
		done += n
	}
	if done > 0 {
		s.cfg.Logger.Info("credentials sealed with the current key", "credentials", done)
	}
	return int(done), nil
}

// stale returns the credentials that can be opened but are sealed with a key other than
// the current one.
func (s *Store) stale(ctx context.Context) ([]*sealedCredential, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var all, stale []*sealedCredential
	err := s.d.run(ctx, s.db, batch{first: func() []stmt {
		all = nil
		return []stmt{{
			query: `SELECT integration_id, name, sealed FROM credentials ORDER BY integration_id, name`,
			row:   each(&all, (*sealedCredential).fields),
		}}
	}})
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		if s.cfg.Sealer.Current(c.sealed) {
			continue
		}
		b, err := s.opener(c.integration, c.name, c.sealed)(ctx)
		clear(b)
		if err != nil {
			s.cfg.Logger.Warn("a credential cannot be opened", "integration_id", c.integration, "credential", c.name, "error", err)
			continue
		}
		stale = append(stale, c)
	}
	return stale, nil
}

// reseal seals credentials again and returns how many of them were still unchanged.
func (s *Store) reseal(ctx context.Context, stale []*sealedCredential) (int64, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var stmts []stmt
	var revision int64
	changed := make([]int64, len(stale))
	for i, c := range stale {
		b, err := s.opener(c.integration, c.name, c.sealed)(ctx)
		if err != nil {
			return 0, err
		}
		sealed, err := s.cfg.Sealer.Seal(ctx, b, associatedData(c.integration, c.name))
		clear(b)
		if err != nil {
			return 0, err
		}
		stmts = append(stmts, s.change(c.integration, &revision)...)
		stmts = append(stmts,
			stmt{query: `UPDATE credentials SET sealed = ? WHERE integration_id = ? AND name = ? AND sealed = ?`,
				args: []any{sealed, c.integration, c.name, c.sealed}, changed: &changed[i]},
			// A new etag makes every replica read the integration again.
			stmt{query: `UPDATE integrations SET etag = ? WHERE id = ? AND EXISTS (SELECT 1 FROM credentials WHERE integration_id = CAST(? AS TEXT) AND name = CAST(? AS TEXT) AND sealed = ` + s.d.bytes + `)`,
				args: []any{rand.Text(), c.integration, c.integration, c.name, sealed}})
	}
	err := s.d.run(ctx, s.db, batch{access: writing, first: func() []stmt { return s.notify(stmts) }})
	if err != nil {
		return 0, err
	}
	var done int64
	for _, n := range changed {
		done += n
	}
	return done, nil
}
