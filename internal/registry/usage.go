package registry

import (
	"context"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
)

// Usage is what one caller read of one integration, told together: no single
// reads, no values.
type Usage struct {
	Integration string
	// UID is the UID of the integration, if it has one. UsageStore.Usage does not set it.
	UID       string
	Principal authz.Principal
	// Connector is what the caller called itself, "" if it did not; nobody checked
	// it.
	Connector string
	// Store and Secret are canonical. Both are "" in an entry that stands for uses which
	// are no longer told apart. Key is the JSON key, "" for a whole secret.
	Store, Secret, Key string
	// GrantID is the id of the grant that allowed the reads; "" if it is unknown, because
	// the entry represents uses that are no longer distinguished or is older than this field.
	GrantID string
	// Version is the version that was handed out last.
	Version string
	// FirstAt and LastAt are when it was handed out first and last, UTC.
	FirstAt, LastAt time.Time
}

// UsageStore keeps usage, merged from all replicas. It is safe for concurrent
// use.
type UsageStore interface {
	// MergeUsage adds to what is kept: the earlier FirstAt, the later LastAt and
	// its Version hold. Usage of integrations that are not kept is dropped,
	// as is that of a deleted integration whose id another one has now. Too many
	// entries of an integration become one for each principal, without the secret.
	MergeUsage(ctx context.Context, batch []Usage) error
	// Usage returns the usage of one integration since then, the latest first, at
	// most limit entries; 0 for all.
	Usage(ctx context.Context, integration string, since time.Time, limit int) ([]Usage, error)
	// LastUsed returns when each integration was used last. Those that never were
	// are not in it.
	LastUsed(ctx context.Context) (map[string]time.Time, error)
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
