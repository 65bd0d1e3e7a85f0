// Package seal encrypts ("seals") credentials at rest with a key that is stored elsewhere
// than the credentials.
//
// It knows keys and bytes. It knows neither integrations nor where sealed bytes are
// stored.
package seal

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// ErrCannotOpen means that none of the keys opens sealed bytes with the associated data:
// another key is needed, or the bytes were changed or moved.
var ErrCannotOpen = errors.New("seal: no available key opens this credential for this integration; add the key that sealed it to the broker's key file, or set the integration's credential again")

// Sealer seals and opens. Implementations are safe for concurrent use. Seal and Open may
// wait for a key service, until ctx ends.
type Sealer interface {
	// Seal encrypts plaintext and authenticates associatedData with it: Open requires
	// the same associatedData. associatedData is not secret. The caller keeps ownership
	// of plaintext.
	Seal(ctx context.Context, plaintext []byte, associatedData string) ([]byte, error)
	// Open returns a copy of the plaintext, or ErrCannotOpen. The caller owns and clears
	// it.
	Open(ctx context.Context, sealed []byte, associatedData string) ([]byte, error)
	// Current reports whether Seal would use the same key that these bytes were
	// sealed with.
	Current(sealed []byte) bool
}

// Keys seals with the primary key of a key file and opens with any of its keys. Sealed
// bytes begin with the id of their key, so the keys can be rotated while old ones still
// open.
type Keys struct {
	path string
	ring atomic.Pointer[ring]
}

type ring struct {
	aead   tink.AEAD
	prefix string // of everything sealed with the primary key
}

var _ Sealer = (*Keys)(nil)

// Open reads a key file.
func Open(path string) (*Keys, error) {
	k := &Keys{path: path}
	if err := k.Reload(); err != nil {
		return nil, err
	}
	return k, nil
}

// Reload reads the key file again. If that fails, it keeps the current keys.
func (k *Keys) Reload() error {
	handle, err := read(k.path)
	if err != nil {
		return err
	}
	primitive, err := aead.New(handle)
	if err != nil {
		return fmt.Errorf("seal: %s: the keys are not of the kind that seals credentials", k.path)
	}
	prefix, err := primaryPrefix(handle)
	if err != nil {
		return fmt.Errorf("seal: %s: %w", k.path, err)
	}
	k.ring.Store(&ring{aead: primitive, prefix: prefix})
	return nil
}

// Seal implements Sealer. It does not wait.
func (k *Keys) Seal(_ context.Context, plaintext []byte, associatedData string) ([]byte, error) {
	sealed, err := k.ring.Load().aead.Encrypt(plaintext, []byte(associatedData))
	if err != nil {
		return nil, errors.New("seal: the credential could not be sealed")
	}
	return sealed, nil
}

// Open implements Sealer. It does not wait.
func (k *Keys) Open(_ context.Context, sealed []byte, associatedData string) ([]byte, error) {
	b, err := k.ring.Load().aead.Decrypt(sealed, []byte(associatedData))
	if err != nil {
		return nil, ErrCannotOpen
	}
	return b, nil
}

// Current implements Sealer.
func (k *Keys) Current(sealed []byte) bool {
	p := k.ring.Load().prefix
	return len(sealed) > len(p) && string(sealed[:len(p)]) == p
}
