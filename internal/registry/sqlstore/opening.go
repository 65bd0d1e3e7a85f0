package sqlstore

import (
	"context"
	"slices"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// What is wrong with a stored credential that does not open. The first one stands
// for a broker without keys.
const (
	faultNoKeyFile = "the credential is stored sealed, and this broker has no key: set registry.key_file in its broker.yaml"
	faultNoKey     = "no key in registry.key_file opens the stored credential: bring the file with the key that it was sealed with to this broker and send SIGHUP, or give the integration the credential again"
)

// sealedFaults opens the credentials that a document uses and says which of them
// do not open. The integration is still served, since its grants are known, and
// values in the cache need no credential: calls that need it fail.
func (s *Store) sealedFaults(ctx context.Context, id string, used []string, credentials map[string]integration.Credential) (faults strictyaml.Faults) {
	for _, name := range used {
		open := credentials[name]
		if open == nil {
			continue // which is a fault of the document
		}
		b, err := open(ctx)
		clear(b)
		if err == nil {
			continue
		}
		text := faultNoKey
		if s.cfg.Sealer == nil {
			text = faultNoKeyFile
		}
		faults = append(faults, strictyaml.Fault{File: id, Path: name, Text: text})
	}
	return faults
}

// checkKeys finds credentials that open or do not open since the keys have changed.
func (s *Store) checkKeys() {
	s.recheck(func(k *kept) bool {
		now := s.sealedFaults(s.ctx, k.id, k.parsed.Used, k.credentials)
		return !slices.Equal(now, k.sealedFaults)
	})
}
