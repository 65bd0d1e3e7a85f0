package sqlstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
)

// ErrNoSealer means that the Store has no keys to seal with.
var ErrNoSealer = errors.New("no sealing key: set registry.seal.key_file")

// keyData binds a sealed key to its name, as associatedData does a credential.
func keyData(name string) string { return "key/" + name }

// SealedKey returns the key with a name that all brokers with this database share. The first
// call for a name makes it: size random bytes. The caller clears it. The error is
// ErrNoSealer, one that wraps seal.ErrCannotOpen, or one of the database.
func (s *Store) SealedKey(ctx context.Context, name string, size int) ([]byte, error) {
	if s.cfg.Sealer == nil {
		return nil, ErrNoSealer
	}
	sealed, err := s.readSealedKey(ctx, name)
	if err != nil {
		return nil, err
	}
	if sealed == nil {
		if err := s.makeSealedKey(ctx, name, size); err != nil {
			return nil, err
		}
		if sealed, err = s.readSealedKey(ctx, name); err != nil { // another broker may have been faster
			return nil, err
		}
	}
	key, err := s.cfg.Sealer.Open(ctx, sealed, keyData(name))
	if err != nil {
		return nil, fmt.Errorf("registry: the %s key in the database: %w", name, err)
	}
	return key, nil
}

// readSealedKey returns a sealed key, nil if there is none.
func (s *Store) readSealedKey(ctx context.Context, name string) (sealed []byte, err error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	err = s.d.alone(ctx, s.db, stmt{query: `SELECT sealed FROM sealed_keys WHERE name = ?`, args: []any{name}, row: into(&sealed)})
	if err != nil {
		return nil, unavailable(err)
	}
	return sealed, nil
}

// makeSealedKey stores a new key unless there is one.
func (s *Store) makeSealedKey(ctx context.Context, name string, size int) error {
	key := make([]byte, size)
	defer clear(key)
	_, _ = rand.Read(key) // never fails
	sealed, err := s.cfg.Sealer.Seal(ctx, key, keyData(name))
	if err != nil {
		return err
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	err = s.d.run(ctx, s.db, batch{access: writing, first: func() []stmt {
		return []stmt{{
			query: `INSERT INTO sealed_keys (name, sealed, created_at) VALUES (CAST(? AS TEXT), ` + s.d.bytes + `, ` + s.d.now + `) ON CONFLICT (name) DO NOTHING`,
			args:  []any{name, sealed},
		}}
	}})
	if err != nil {
		return unavailable(err)
	}
	return nil
}

// resealKeys seals keys with the current key that are sealed with another one. It skips
// those that no available key opens.
func (s *Store) resealKeys(ctx context.Context) error {
	if s.cfg.program < sightingsVersion {
		return nil
	}
	type row struct {
		name   string
		sealed []byte
	}
	var all []*row
	limited, cancel := s.bounded(ctx)
	defer cancel()
	err := s.d.alone(limited, s.db, stmt{query: `SELECT name, sealed FROM sealed_keys`, row: each(&all, func(r *row) []any { return []any{&r.name, &r.sealed} })})
	if err != nil {
		return unavailable(err)
	}
	for _, r := range all {
		if s.cfg.Sealer.Current(r.sealed) {
			continue
		}
		key, err := s.cfg.Sealer.Open(ctx, r.sealed, keyData(r.name))
		if err != nil {
			s.cfg.Logger.Warn("a key in the database cannot be opened", "name", r.name, "error", err)
			continue
		}
		sealed, err := s.cfg.Sealer.Seal(ctx, key, keyData(r.name))
		clear(key)
		if err != nil {
			return err
		}
		err = s.d.run(limited, s.db, batch{access: writing, first: func() []stmt {
			return []stmt{{query: `UPDATE sealed_keys SET sealed = ` + s.d.bytes + ` WHERE name = ? AND sealed = ` + s.d.bytes, args: []any{sealed, r.name, r.sealed}}}
		}})
		if err != nil {
			return unavailable(err)
		}
	}
	return nil
}
