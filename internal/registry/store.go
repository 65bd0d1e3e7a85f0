// Package registry defines the contract between the users of integrations and the backends
// that store them: a directory of files (dirstore) or a database (sqlstore).
package registry

import (
	"context"
	"errors"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// Defaults of the settings of a database with integrations.
const (
	DefaultMaxIntegrations = 100
	DefaultMaxOutage       = 15 * time.Minute
	DefaultUsageRetention  = 90 * 24 * time.Hour
)

// The errors of a Store.
var (
	// ErrNotFound means that no integration has this id, or that it is not valid.
	ErrNotFound = errors.New("registry: no such integration")
	// ErrReadOnly means that the integrations are files, which are changed at their
	// source.
	ErrReadOnly = errors.New("registry: the integrations are files: change the files instead")
	// ErrExists means that Create was called with an id that is in use.
	ErrExists = errors.New("registry: an integration with this id already exists")
	// ErrConflict means that the integration has changed since its etag was read.
	ErrConflict = errors.New("registry: the integration has changed since it was read; read it again")
	// ErrQuota means that the maximum number of integrations is reached.
	ErrQuota = errors.New("registry: the maximum number of integrations is reached; delete one or raise registry.max_integrations")
	// ErrUnavailable means that the backend cannot be read and that what was last read
	// from it is too old to decide by.
	ErrUnavailable = errors.New("registry: the integrations' database or files cannot be read")
)

// InvalidError means that a document is not valid. It contains no value from the document.
type InvalidError struct {
	// Faults is never empty.
	Faults strictyaml.Faults
}

func (e *InvalidError) Error() string { return e.Faults.Error() }

// Store stores the integrations. All implementations pass registrytest and are safe for
// concurrent use.
//
// Get, List, WithRole, Faults, Status, Record and Records answer from memory and do not
// wait for the backend. There is one exception: after the process was suspended for
// seconds, Get, WithRole, Record and Records wait for up to a second for current data. All
// other methods may wait until their context ends.
//
// When a write has returned, the Store that made it shows the change. Another Store of the
// same backend shows it with its next look: within milliseconds if the backend sends
// notifications, and otherwise within a second. A caller that cannot accept this delay,
// because it writes what it derives from a read, calls Refresh before the read.
type Store interface {
	// Get returns the integration with this id, ErrNotFound, or ErrUnavailable. Successive
	// calls never go back in time.
	Get(id string) (*integration.Integration, error)
	// List returns the integrations that are served, sorted by ID, no matter how old they
	// are.
	List() []*integration.Integration
	// WithRole returns those of List on which who has a role granted by the integration,
	// sorted by ID, or ErrUnavailable as Get does. Except for the first call after a
	// change, its duration does not depend on the number of integrations.
	WithRole(who authz.Principal) ([]*integration.Integration, error)
	// Faults returns what is stored but not served because it is not valid.
	Faults() []FileFault
	// Status reports how current Get and List are.
	Status() Status

	// Record returns one integration as it was last read from the backend, ErrNotFound, or
	// ErrUnavailable as Get does. It includes integrations that are not valid and therefore
	// not served. If ctx has ended, it returns the error of ctx.
	Record(ctx context.Context, id string) (Record, error)
	// Records returns integrations, sorted by ID, in the same way.
	Records(ctx context.Context, page Page) ([]Record, error)

	// Refresh returns when the Store shows every change that was committed before the call,
	// or ErrUnavailable. It does nothing if the Store is not writable, because then no
	// write depends on a read.
	Refresh(ctx context.Context) error
	// Create stores a new integration. Its errors are ErrExists, ErrQuota and
	// *InvalidError.
	Create(ctx context.Context, c Change) (Record, error)
	// Update replaces the integration with the document's id. Its errors are ErrNotFound,
	// ErrConflict and *InvalidError.
	Update(ctx context.Context, c Change) (Record, error)
	// Delete deletes an integration with its credentials and usage. It returns
	// ErrNotFound, or ErrConflict if etag is neither "" nor the record's.
	Delete(ctx context.Context, id, etag string) error

	// Run applies changes made by others until ctx ends, and then returns nil. It is
	// called at most once.
	Run(ctx context.Context) error
	// Reload looks for changes and returns when they have taken effect.
	Reload()
}

// Page selects a part of a list. The zero Page selects the whole list.
type Page struct {
	// After is the id after which the page begins; "" for the first page.
	After string
	// Limit is the maximum number of entries; 0 for all.
	Limit int
}

// Change is the input of Create and Update.
type Change struct {
	// ID, if set, is the id that Document must have. It saves the Store from parsing
	// Document to find its id.
	ID string
	// Document is the integration in the format of files, with its id: YAML, which
	// includes JSON. It contains no credential.
	Document []byte
	// Credentials are sealed before they are written, and no call returns them. Each is
	// named by the setting that would otherwise name its file, without "_file":
	// "azure.credential.client_secret". Update keeps the credentials that it is not given
	// and that the document still uses, and deletes the others. A credential that the
	// document does not use is a fault. The caller wipes them.
	Credentials map[string]secret.Value
	// ETag is the etag of the record that Update replaces; "" replaces any.
	ETag string
	// By is the principal that makes the change.
	By authz.Principal
	// ValidateOnly checks the change against what Record returns, parses only Document, and
	// does not use the backend. The result is the Record that the change would lead to,
	// without an etag, times and a new UID. Its credentials open until the caller wipes those given.
	ValidateOnly bool
}

// Record is an integration as it is stored, without its credentials.
type Record struct {
	// ID is unique among the integrations, and UID among all that ever were: Create
	// generates it. UID is "" for files.
	ID, UID string
	// Document is what was last written, byte by byte. If a file is invalid, it is the
	// last valid content if that is in effect, and empty otherwise.
	Document []byte
	// ETag changes with every write. It is opaque to callers.
	ETag string
	// Credentials are the names of the stored credentials, sorted.
	Credentials []string
	// CreatedAt and UpdatedAt are the times of the creation and of the last update,
	// CreatedBy and UpdatedBy the principals. They are zero if unknown, as for files.
	CreatedAt, UpdatedAt time.Time
	CreatedBy, UpdatedBy authz.Principal
	// File is the path of the integration's file, or "" if it is in a database.
	File string
	// Integration is the parsed document, or nil if it is invalid for the reasons in
	// Faults. There may be Faults although the Integration is in effect: a stored
	// credential that no key opens, a document that has become invalid although it is
	// unchanged, a file that was changed to an invalid one or has vanished.
	Integration *integration.Integration
	Faults      strictyaml.Faults
}

// Status is how current a Store is.
type Status struct {
	// Backend is "files", "sqlite" or "postgres".
	Backend string
	// Writable is whether Create, Update and Delete are possible.
	Writable bool
	// SeenAt is the last time at which Get and List matched the backend.
	SeenAt time.Time
	// Problem is the reason why the Store cannot read its backend, or "".
	Problem string
	// RefusesAt is when Get begins to return ErrUnavailable if the Problem continues. It
	// is zero without a Problem, and for a Store that never refuses.
	RefusesAt time.Time
	// Refuses is whether Get returns ErrUnavailable.
	Refuses bool
	// Held is the number of integrations that are still served although their files have
	// disappeared, because several disappeared together; 0 for a database.
	Held int
	// WriteProblem is which writes fail and why, or "". While it lasts, no grant can be
	// revoked.
	WriteProblem string
}

// FileFault is an invalid file, and what is served instead of its content.
type FileFault struct {
	// File is the path of the file, or of the directory if it cannot be read or several
	// files have disappeared from it.
	File string
	// Faults is never empty.
	Faults strictyaml.Faults
	// Serving is the id of the integration that is served from the file's last valid
	// content, or "". It is "" in a fault of the directory.
	Serving string
}
