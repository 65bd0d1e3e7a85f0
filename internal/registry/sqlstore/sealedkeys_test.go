//go:build unix

package sqlstore

import (
	"bytes"
	"errors"
	"path/filepath"
	"sync"
	"testing"

	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry/seal"
)

// TestSealedKey: all brokers get the same key, also those that start at the same time; it
// follows a rotation of the sealing key, and opens for no other name.
func TestSealedKey(t *testing.T) {
	backends(t, func(t *testing.T, open opener) {
		file := filepath.Join(t.TempDir(), "seal.key")
		if err := seal.Create(file); err != nil {
			t.Fatal(err)
		}
		keys, err := seal.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		s := open.must(t, Config{Kinds: kinds.All(), Sealer: keys})
		got := make([][]byte, 8)
		var starting sync.WaitGroup
		for i := range got {
			starting.Go(func() {
				var err error
				if got[i], err = s.SealedKey(t.Context(), "version", 32); err != nil {
					t.Error(err)
				}
			})
		}
		starting.Wait()
		for _, key := range got {
			if len(key) != 32 || !bytes.Equal(key, got[0]) {
				t.Errorf("keys of %d bytes that differ", len(key))
			}
		}
		other, err := s.SealedKey(t.Context(), "other", 32)
		if err != nil || bytes.Equal(other, got[0]) {
			t.Errorf("another name has the same key, or %v", err)
		}

		if err := seal.Add(file); err != nil {
			t.Fatal(err)
		}
		if err := seal.Use(file); err != nil {
			t.Fatal(err)
		}
		if err := keys.Reload(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Reseal(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := seal.Drop(file); err != nil {
			t.Fatal(err)
		}
		if err := keys.Reload(); err != nil {
			t.Fatal(err)
		}
		if again, err := s.SealedKey(t.Context(), "version", 32); err != nil || !bytes.Equal(again, got[0]) {
			t.Errorf("after a rotation of the sealing key: %v", err)
		}
		if _, err := s.db.ExecContext(t.Context(), `UPDATE sealed_keys SET sealed = (SELECT k.sealed FROM sealed_keys AS k WHERE k.name = 'other') WHERE name = 'version'`); err != nil {
			t.Fatal(err)
		}
		if _, err := s.SealedKey(t.Context(), "version", 32); !errors.Is(err, seal.ErrCannotOpen) {
			t.Errorf("a key that was moved to another name: %v", err)
		}

		stranger := open.must(t, Config{Kinds: kinds.All(), Sealer: newKeys(t)})
		if _, err := stranger.SealedKey(t.Context(), "other", 32); !errors.Is(err, seal.ErrCannotOpen) {
			t.Errorf("with another sealing key: %v", err)
		}
		none := open.must(t, Config{Kinds: kinds.All()})
		if _, err := none.SealedKey(t.Context(), "other", 32); !errors.Is(err, ErrNoSealer) {
			t.Errorf("without a sealing key: %v", err)
		}
		if again, err := s.SealedKey(t.Context(), "other", 32); err != nil || !bytes.Equal(again, other) {
			t.Errorf("the key was replaced: %v", err)
		}
	})
}
