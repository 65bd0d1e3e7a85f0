package registry

import (
	"context"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
)

// Usage summarizes a caller's reads of one secret through one integration. It contains
// neither single reads nor values.
type Usage struct {
	Integration string
	// UID is the UID of the integration, if it has one. UsageStore.Usage does not set it.
	UID       string
	Principal authz.Principal
	// Connector is the name that the caller sent, or "". It is not verified.
	Connector string
	// Store and Secret are canonical. Both are "" in an entry that represents uses that are
	// no longer distinguished. Key is the JSON key, or "" for a whole secret.
	Store, Secret, Key string
	// GrantID is the id of the grant that allowed the reads; "" if it is unknown, because
	// the entry represents uses that are no longer distinguished or is older than this field.
	GrantID string
	// Version is the version that was returned last.
	Version string
	// FirstAt and LastAt are the times of the first and the last read, UTC.
	FirstAt, LastAt time.Time
}

// UsageStore stores usage, merged from all replicas. It is safe for concurrent use.
type UsageStore interface {
	// MergeUsage merges batch into the stored usage: it keeps the earlier FirstAt, and the
	// later LastAt with its Version. It drops the usage of integrations that are not stored,
	// and of a deleted integration whose id another one has now. If an integration has too
	// many entries, they become one entry for each principal, without the secret.
	MergeUsage(ctx context.Context, batch []Usage) error
	// Usage returns the usage of one integration since a time, the latest first, at most
	// limit entries; 0 for all.
	Usage(ctx context.Context, integration string, since time.Time, limit int) ([]Usage, error)
	// LastUsed returns the time of the last use of each integration that was used.
	LastUsed(ctx context.Context) (map[string]time.Time, error)
	// Recording says what usage is stored.
	Recording() Recording
}

// Recording says what usage a UsageStore has.
type Recording struct {
	// Since is since when the store has recorded usage and still has it. Usage of an
	// integration is recorded since its creation if that is later.
	Since time.Time
	// ReplicaOnly: the store does not have the usage of other replicas.
	ReplicaOnly bool
}

// MergeUsage returns two entries of the same caller and secret as one.
func MergeUsage(a, b Usage) Usage {
	if b.LastAt.Before(a.LastAt) {
		a, b = b, a
	}
	if a.FirstAt.Before(b.FirstAt) {
		b.FirstAt = a.FirstAt
	}
	return b
}
