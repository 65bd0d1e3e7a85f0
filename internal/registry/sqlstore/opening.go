package sqlstore

import (
	"context"
	"slices"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// The faults of a stored credential that cannot be opened. The first is for a broker that
// has no keys.
const (
	faultNoKeyFile = "the stored credential is sealed and this broker has no key to open it: set registry.seal.key_file in its secretbroker.yaml"
	faultNoKey     = "no key in registry.seal.key_file opens the stored credential: copy the key file with the key that sealed it to this broker and send SIGHUP, or set the integration's credential again"
)

// sealedFaults tries to open the credentials that a document uses, and returns a fault for
// each that does not open. The integration is still served, because its grants are known
// and cached values need no credential; only the calls that need the credential fail.
func (s *Store) sealedFaults(ctx context.Context, id string, used []string, credentials map[string]integration.Credential) (faults strictyaml.Faults) {
	for _, name := range used {
		open := credentials[name]
		if open == nil {
			continue // the document's own faults report it
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

// checkKeys finds the credentials that a change of the keys has made usable or unusable.
func (s *Store) checkKeys() {
	s.recheck(func(k *kept) bool {
		now := s.sealedFaults(s.ctx, k.id, k.parsed.Used, k.credentials)
		return !slices.Equal(now, k.sealedFaults)
	})
}
