package sqlstore

import (
	"context"
	"crypto/rand"

	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/registry/seal"
)

// maxCredential is the size in bytes of the largest credential that is kept.
const maxCredential = 64 << 10

// place is where a credential belongs: sealed for one place, it opens for no
// other, so that nobody who can write in the database gives one integration
// another one's credential.
func place(integration, name string) string { return "integration/" + integration + "/" + name }

// opener returns the func that opens a credential when it is needed.
func (s *Store) opener(integration, name string, sealed []byte) registry.Credential {
	return func() ([]byte, error) {
		if s.cfg.Sealer == nil {
			return nil, seal.ErrCannotOpen
		}
		return s.cfg.Sealer.Open(sealed, place(integration, name))
	}
}

// Reseal seals anew what is sealed with another key than the current one, and
// returns how many credentials that were. What no key at hand opens is left as
// it is.
func (s *Store) Reseal(ctx context.Context) (int, error) {
	if s.cfg.Sealer == nil {
		return 0, nil
	}
	var done int
	err := inTx(ctx, s.db, s.d, s.d.write, func(t tx) error {
		done = 0
		stale, err := s.stale(ctx, t)
		if err != nil {
			return err
		}
		if len(stale) == 0 {
			return errRollback
		}
		if err := s.touch(ctx, t); err != nil {
			return err
		}
		// Again, now that nobody else writes.
		if stale, err = s.stale(ctx, t); err != nil {
			return err
		}
		for _, c := range stale {
			if err := s.resealOne(ctx, t, c); err != nil {
				return err
			}
			done++
		}
		return nil
	})
	if err != nil {
		return 0, unavailable(err)
	}
	if done > 0 {
		s.cfg.Logger.Info("credentials sealed with the current key", "credentials", done)
	}
	return done, nil
}

// stale returns the credentials that can be opened and are sealed with another
// key than the current one.
func (s *Store) stale(ctx context.Context, t tx) ([]*sealedCredential, error) {
	rows, err := t.query(ctx, `SELECT integration_id, name, sealed FROM credentials ORDER BY integration_id, name`)
	if err != nil {
		return nil, err
	}
	all, err := collect(rows, func(c *sealedCredential) []any { return []any{&c.integration, &c.name, &c.sealed} })
	if err != nil {
		return nil, err
	}
	var stale []*sealedCredential
	for _, c := range all {
		if s.cfg.Sealer.Current(c.sealed) {
			continue
		}
		b, err := s.opener(c.integration, c.name, c.sealed)()
		clear(b)
		if err != nil {
			s.cfg.Logger.Warn("a credential cannot be opened", "integration", c.integration, "credential", c.name, "error", err)
			continue
		}
		stale = append(stale, c)
	}
	return stale, nil
}

func (s *Store) resealOne(ctx context.Context, t tx, c *sealedCredential) error {
	b, err := s.opener(c.integration, c.name, c.sealed)()
	if err != nil {
		return err
	}
	defer clear(b)
	sealed, err := s.cfg.Sealer.Seal(b, place(c.integration, c.name))
	if err != nil {
		return err
	}
	if err := t.exec(ctx, `UPDATE credentials SET sealed = ? WHERE integration_id = ? AND name = ?`, sealed, c.integration, c.name); err != nil {
		return err
	}
	// With a new etag every replica reads it.
	return t.exec(ctx, `UPDATE integrations SET etag = ? WHERE id = ?`, rand.Text(), c.integration)
}
