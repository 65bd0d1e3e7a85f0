// Package integration has the provider integrations: what each one is, how it is
// written down and validated, and what a read through it depends on.
//
// It does not know where integrations are kept (registry), and no callers, caches,
// gRPC or store SDKs: the settings it hands out are plain data, and credentials
// appear in them only as paths of files or as funcs that open what is kept sealed.
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
	// ID matches [A-Za-z0-9._-]{1,64}.
	ID string
	// Revision changes whenever anything in the integration changes, the content
	// of its credential and CA files included, that of a federated token excluded.
	Revision string
	// ReadRevision changes whenever something changes that a read of a store depends
	// on: the kind, the stores, the credential, how the store is reached. A change of
	// grants, roles or descriptions leaves it as it is. What is cached and what is
	// open for an integration goes by it; decisions do not, they go by Policy.
	ReadRevision string
	DisplayName  string
	Kind         secret.Kind
	// Settings are those of Kind.
	Settings Settings
	// CacheTTL is how long a value of this integration may be answered from the
	// cache; zero means the broker's default.
	CacheTTL time.Duration
	// CacheMaxStale is how long past its time-to-live a value may be answered
	// while its store cannot be reached or throttles; zero means not at all.
	CacheMaxStale time.Duration
	Limits        Limits
	// Placement is where its stores are, as far as that is known.
	Placement Placement
	// Policy decides who may read what through this integration.
	Policy *authz.Policy
	// Roles say who may manage it, beside those who may manage all.
	Roles *authz.Roles
	// Credentials are kept sealed in place of a file: for a setting X_file that is
	// empty, the credential is the one named X ("azure.credential.client_secret").
	// Nil for an integration that stands in a file.
	Credentials map[string]Credential `json:"-"` // funcs; see readRevision
}

// Stored returns the credential that is kept in place of the file which the
// setting, such as "azure.credential.client_secret_file", would name; nil if none
// is.
func (in *Integration) Stored(setting string) Credential {
	return in.Credentials[strings.TrimSuffix(setting, "_file")]
}

// Limits are how hard each store of an integration may be used. Zero values mean
// the broker's defaults.
type Limits struct {
	// MaxConcurrentReads is how many reads of one store run at a time.
	MaxConcurrentReads int
	// ReadsPerSecond is the most reads of one store that begin in a second; zero
	// for as many as the store takes.
	ReadsPerSecond int
	// Timeout bounds one exchange with a store or its login authority.
	Timeout time.Duration
}

// Credential opens a credential that the Store keeps sealed. It may wait for a key
// service, until ctx ends. The caller owns the bytes and clears them. As a func it shows
// nothing when it is printed.
type Credential func(ctx context.Context) ([]byte, error)
