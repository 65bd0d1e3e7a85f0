package registry

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/secret"
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
	// Versions are the last MaxVersions versions that were returned, the one that was
	// returned last first. Nil stands for Version alone, between FirstAt and LastAt. The
	// elements are not changed.
	Versions []VersionUse
	// FirstAt and LastAt are the times of the first and the last read, UTC.
	FirstAt, LastAt time.Time
}

// MaxVersions is the maximum number of versions of a Usage.
const MaxVersions = 4

// VersionUse summarizes the reads of one version. It is immutable.
type VersionUse struct {
	Version string
	// FirstAt and LastAt are the times of the first and the last read, UTC. FirstAt is zero
	// if it is not known: a release that did not record versions made the first read.
	FirstAt, LastAt time.Time
	// RequestID identifies the call of the first read in the audit log of the replica,
	// and Sequence is the number of its record in the log's chain. They are zero if they are
	// unknown.
	RequestID string
	Sequence  uint64
	Replica   string
}

// Read is one read of a secret by a caller.
type Read struct {
	Principal authz.Principal
	// Connector is as in Usage.
	Connector string
	// Integration and UID identify the integration; UID may be "".
	Integration, UID string
	// GrantID is the id of the grant that allowed the read.
	GrantID string
	Ref     secret.Ref
	Version string
	// RequestID is the id of the call, and Position that of its record.
	RequestID string
	Position  audit.Position
}

// Seen is the version of a secret that a replica found when it read the secret from its
// store. The reference named no version.
type Seen struct {
	Integration string
	// UID is as in Usage. UsageStore.Seen does not set it.
	UID string
	// Store is as Integration.CanonicalStore returns it.
	Store, Secret, Version string
	// ReadAt is when the read began, by the clock of the replica, UTC.
	ReadAt time.Time
}

// UsageQuery selects usage of several integrations.
type UsageQuery struct {
	// Integrations are the ids of the integrations.
	Integrations []string
	// Secret is the name of a secret; "" for all usage.
	Secret string
	// AfterIntegration and AfterID are those of the last entry of the previous page, ""
	// for the first page.
	AfterIntegration, AfterID string
	// Limit is the maximum number of entries.
	Limit int
}

// VersionCount is the number of entries of an integration that returned a version of a
// secret last.
type VersionCount struct {
	Integration, Store, Secret, Version string
	Count                               int
}

// UsageStore stores usage, merged from all replicas. It is safe for concurrent use.
type UsageStore interface {
	// MergeUsage merges batch into the stored usage as the function MergeUsage does. It drops the usage of integrations that are not stored,
	// and of a deleted integration whose id another one has now. If an integration has too
	// many entries, they become one entry for each principal, without the secret.
	MergeUsage(ctx context.Context, batch []Usage) error
	// Usage returns the usage of one integration since a time, the latest first, at most
	// limit entries; 0 for all.
	Usage(ctx context.Context, integration string, since time.Time, limit int) ([]Usage, error)
	// UsagePage returns usage of several integrations, sorted by integration and Usage.ID.
	UsagePage(ctx context.Context, q UsageQuery) ([]Usage, error)
	// CountVersions counts the entries that have a secret by the version that they returned
	// last, at most limit counts.
	CountVersions(ctx context.Context, limit int) ([]VersionCount, error)
	// MergeSeen stores what replicas have read from stores. Of each secret of an
	// integration it keeps the latest read. It drops what it would drop in MergeUsage.
	MergeSeen(ctx context.Context, batch []Seen) error
	// Seen returns the latest reads of the secrets with these names; nil for all secrets.
	Seen(ctx context.Context, secrets []string) ([]Seen, error)
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

// ID identifies the entry among all integrations. It contains the lengths of the parts, so
// that different parts never result in the same ID. Without a grant's id it is the ID of
// releases that did not record it.
func (u *Usage) ID() string {
	h := sha256.New()
	parts := []string{u.Integration, string(u.Principal), u.Connector, u.Store, u.Secret, u.Key, u.GrantID}
	if u.GrantID == "" {
		parts = parts[:len(parts)-1]
	}
	for _, s := range parts {
		h.Write([]byte(strconv.Itoa(len(s)) + ":" + s))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// MergeUsage returns two entries of the same caller and secret as one: with the earlier
// FirstAt, the later LastAt and the last MaxVersions versions. The order of the arguments
// makes no difference.
func MergeUsage(a, b Usage) Usage {
	if b.LastAt.Before(a.LastAt) {
		a, b = b, a
	}
	if b.Versions = mergeVersions(a.versions(), b.versions()); len(b.Versions) > 0 {
		b.Version = b.Versions[0].Version
	}
	if a.FirstAt.Before(b.FirstAt) {
		b.FirstAt = a.FirstAt
	}
	return b
}

// versions returns the versions of an entry, none if it has no secret.
func (u *Usage) versions() []VersionUse {
	if u.Versions != nil || u.Version == "" {
		return u.Versions
	}
	return []VersionUse{{Version: u.Version, FirstAt: u.FirstAt, LastAt: u.LastAt}}
}

// mergeVersions returns the last MaxVersions of the versions in two lists.
func mergeVersions(a, b []VersionUse) []VersionUse {
	merged := make([]VersionUse, 0, len(a)+len(b))
	for _, list := range [2][]VersionUse{a, b} {
		for _, v := range list {
			if i := slices.IndexFunc(merged, func(m VersionUse) bool { return m.Version == v.Version }); i >= 0 {
				merged[i] = mergeVersion(merged[i], v)
			} else {
				merged = append(merged, v)
			}
		}
	}
	return LastVersions(merged)
}

// mergeVersion returns two summaries of the same version as one. The first read is the
// earlier one.
func mergeVersion(a, b VersionUse) VersionUse {
	first, other := a, b
	if c := b.FirstAt.Compare(a.FirstAt); c < 0 || c == 0 && (b.Sequence > a.Sequence || b.Sequence == a.Sequence && b.RequestID > a.RequestID) {
		first, other = b, a
	}
	if other.LastAt.After(first.LastAt) {
		first.LastAt = other.LastAt
	}
	return first
}

// LastVersions sorts the summaries of different versions, the latest first, and returns at
// most MaxVersions of them.
func LastVersions(all []VersionUse) []VersionUse {
	slices.SortFunc(all, func(a, b VersionUse) int {
		return cmp.Or(b.LastAt.Compare(a.LastAt), b.FirstAt.Compare(a.FirstAt), strings.Compare(a.Version, b.Version))
	})
	if len(all) == 0 {
		return nil
	}
	return all[:min(len(all), MaxVersions)]
}
