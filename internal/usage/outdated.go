package usage

import (
	"context"
	"time"

	"github.com/secretbroker/secretbroker/internal/registry"
)

// maxCounts is the maximum number of combinations of integration, secret and version that
// CountOutdated looks at.
const maxCounts = 100_000

// Outdated is a number of uses that have not read the current version of their secret.
type Outdated struct {
	// Uses is the number of uses, and Secrets that of secrets, each as one integration reads it.
	Uses, Secrets int
}

// CountOutdated counts the uses whose last version is not the one that was read last from the
// store, through any integration. canonical is Integration.CanonicalStore of an integration.
func CountOutdated(ctx context.Context, store registry.UsageStore, canonical func(integration, store string) string) (Outdated, error) {
	seen, err := store.Seen(ctx, nil)
	if err != nil {
		return Outdated{}, err
	}
	latest := make(map[secretKey]registry.Seen, len(seen))
	now := time.Now()
	for _, v := range seen {
		k := secretKey{v.Store, v.Secret}
		if old, ok := latest[k]; !ok || v.ReadAt.After(old.ReadAt) && !v.ReadAt.After(now) || old.ReadAt.After(now) {
			latest[k] = v
		}
	}
	counts, err := store.CountVersions(ctx, maxCounts)
	if err != nil {
		return Outdated{}, err
	}
	var all Outdated
	type use struct {
		integration string
		secretKey
	}
	secrets := make(map[use]bool)
	for _, c := range counts {
		k := secretKey{canonical(c.Integration, c.Store), c.Secret}
		if current := latest[k].Version; current != "" && current != c.Version {
			all.Uses += c.Count
			secrets[use{c.Integration, k}] = true
		}
	}
	all.Secrets = len(secrets)
	return all, nil
}
