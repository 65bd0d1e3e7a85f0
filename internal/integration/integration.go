// Package integration defines integrations: what an integration is, how its document is
// parsed and validated, and which of its settings a read of a store depends on.
//
// It knows neither where integrations are stored (package registry) nor callers, caches,
// gRPC and store SDKs. Settings are plain data; credentials appear in them only as paths
// of files, or as funcs that open a sealed credential.
//
// # Ids of grants
//
// A grant has an id, by which the audit log, usage and explanations refer to it. The id is
// the one that the document states, or else it is derived from the grant's lists. A derived
// id is the first 16 bytes, as 32 lower-case hexadecimal digits, of the SHA-256 of these
// bytes:
//
//   - "secretbroker grant v1" and a line feed,
//   - then for each of principals, stores, secrets and keys, in this order: the number of
//     elements, in decimal, and a line feed, and for each element its length in bytes, in
//     decimal, a colon and the element itself. The elements are in the form in which they
//     are written, sorted by their bytes and without duplicates. A missing list has 0
//     elements.
//
// For example, a grant that consists of the principal "dns:a.example.org" and the secret
// "db-*" hashes "secretbroker grant v1\n1\n17:dns:a.example.org0\n1\n4:db-*0\n" and has the
// id e027803dc7a1be65d26d86ab006e6a3c. The id depends neither on the other grants nor on the order of the lists.
package integration

import (
	"context"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Integration is one customer's cloud identity, the stores it may read and who
// may use it. It is immutable: a change makes a new one with a new Revision.
type Integration struct {
	// ID is valid according to ValidID.
	ID string
	// UID distinguishes the integration from deleted ones with the same ID: a UUID that
	// the broker chose when the integration was created. It is "" for an integration in a
	// file, of which the broker does not see the creation.
	UID string
	// Revision changes whenever anything in the integration changes, including the content
	// of its credential and CA files but not of a federated token.
	Revision string
	// ReadRevision changes whenever something changes that a read of a store depends on:
	// the kind, the stores, the credential, or how the store is reached. It does not
	// change with grants, roles or descriptions. Cached values and open providers are
	// keyed by it. Authorization is not: it always uses the current Policy.
	ReadRevision string
	DisplayName  string
	Kind         secret.Kind
	// Settings are those of Kind.
	Settings Settings
	// CacheTTL is how long a value of this integration may be served from the cache; zero
	// means the broker's default.
	CacheTTL time.Duration
	// CacheMaxStale is how long past its time-to-live a value may be served while its
	// store cannot be reached or throttles; zero means not at all.
	CacheMaxStale time.Duration
	Reads         Reads
	// Placement is where its stores are, as far as known.
	Placement Placement
	// Policy decides who may read what through this integration.
	Policy *authz.Policy
	// Roles define who may manage it, in addition to those who may manage all
	// integrations.
	Roles *authz.Roles
	// Credentials are stored sealed instead of in a file. If a setting X_file is empty,
	// the credential is the one named X ("azure.credential.client_secret"). It is nil for
	// an integration in a file.
	Credentials map[string]Credential `json:"-"` // funcs; see readRevision
}

// CanonicalStore returns the name of a store by which its secrets are cached. Stores that
// contain the same secrets have the same name.
func (in *Integration) CanonicalStore(store string) string {
	if settings, ok := in.Settings.(Aliaser); ok {
		return settings.Canonical(store)
	}
	return store
}

// Stored returns the stored credential that replaces the file of a setting such as
// "azure.credential.client_secret_file", or nil.
func (in *Integration) Stored(setting string) Credential {
	return in.Credentials[strings.TrimSuffix(setting, "_file")]
}

// Reads limits the reads of each store of an integration. Zero values mean the broker's
// defaults.
type Reads struct {
	// MaxConcurrent is the maximum number of concurrent reads of one store.
	MaxConcurrent int
	// PerSecond is the maximum number of reads of one store that begin within a second;
	// zero means no limit.
	PerSecond int
	// Timeout bounds one exchange with a store or its login authority.
	Timeout time.Duration
}

// Credential opens a credential that the Store keeps sealed. It may wait for a key
// service, until ctx ends. The caller owns the bytes and clears them. It is a func so that
// printing it reveals nothing.
type Credential func(ctx context.Context) ([]byte, error)
