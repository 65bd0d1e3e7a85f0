package provider

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// The bounds of a VersionKey, in bytes.
const (
	MinVersionKey = 32
	MaxVersionKey = 1024
)

// VersionKey computes versions for secrets whose store has none, so that callers can tell
// whether a secret has changed. A version is an HMAC of the secret's name and content:
// without the key, a version cannot be used to try out values, and two secrets with the
// same content have different versions. All replicas of a deployment need the same key. A
// VersionKey is immutable.
type VersionKey struct {
	kinds *integration.Kinds
	key   []byte
}

// NewVersionKey returns a VersionKey with a copy of key.
func NewVersionKey(kinds *integration.Kinds, key []byte) (*VersionKey, error) {
	if len(key) < MinVersionKey || len(key) > MaxVersionKey {
		return nil, fmt.Errorf("a version key must have %d to %d bytes; make one with: openssl rand -hex 32", MinVersionKey, MaxVersionKey)
	}
	return &VersionKey{kinds: kinds, key: append([]byte(nil), key...)}, nil
}

// Fingerprint identifies the key to those who have it: replicas with the same one compute
// the same versions. It is not secret.
func (k *VersionKey) Fingerprint() string {
	mac := hmac.New(sha256.New, k.key)
	mac.Write([]byte("secretbroker version key"))
	return hex.EncodeToString(mac.Sum(nil)[:8])
}

// apply returns s with a computed version if its store has none. It takes over the
// reference to s. A nil VersionKey returns s.
func (k *VersionKey) apply(in *integration.Integration, ref secret.Ref, s *secret.Secret) *secret.Secret {
	if k == nil {
		return s
	}
	if v, _ := k.kinds.Versions(in, ref); v != secret.NoVersions {
		return s
	}
	return s.WithVersion(func(document []byte) string {
		mac := hmac.New(sha256.New, k.key)
		for _, part := range []string{"secretbroker version 1", string(ref.Kind), ref.Store, ref.Name} {
			var n [8]byte
			binary.BigEndian.PutUint64(n[:], uint64(len(part)))
			mac.Write(n[:])
			mac.Write([]byte(part))
		}
		mac.Write(document)
		return hex.EncodeToString(mac.Sum(nil)[:16])
	})
}
