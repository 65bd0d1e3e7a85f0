// Package registry is the contract between those who use integrations and the
// backends that keep them: the directory of files (dirstore) and databases (sqlstore).
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

// Why a Store does not do what it is asked.
var (
	// ErrNotFound says that there is no usable integration of that id.
	ErrNotFound = errors.New("registry: no such integration")
	// ErrReadOnly: the integrations are files, which are changed where they come from.
	ErrReadOnly = errors.New("registry: the integrations are files: change them where they come from")
	// ErrExists: Create of an id that is taken.
	ErrExists = errors.New("registry: an integration of that id exists already")
	// ErrConflict: the integration has changed since the etag was given out.
	ErrConflict = errors.New("registry: the integration has changed since it was read; read it again")
	// ErrQuota: there are as many integrations as are allowed.
	ErrQuota = errors.New("registry: there are as many integrations as are allowed; delete one or raise registry.max_integrations")
	// ErrUnavailable: where the integrations are kept cannot be read, and what was
	// last seen there is too old to decide by.
	ErrUnavailable = errors.New("registry: the integrations' database or files cannot be read")
)

// InvalidError says that a document is not acceptable. It quotes no value.
type InvalidError struct {
	// Faults is never empty.
	Faults strictyaml.Faults
}

func (e *InvalidError) Error() string { return e.Faults.Error() }

// Store keeps the integrations. All implementations pass registrytest, and are
// safe for concurrent use.
//
// Get, List, WithRole, Faults and Status answer from memory and do not wait for a
// backend, but for Get and WithRole when the process was stopped for seconds: they
// wait up to a second for news. All other methods may wait, as long as their context
// lets them.
type Store interface {
	// Get returns the integration of that id, ErrNotFound, or ErrUnavailable. The
	// integrations it returns are those of one point in time, never of a time
	// before that of an earlier call.
	Get(id string) (*integration.Integration, error)
	// List returns the integrations that are served, by ID, however old.
	List() []*integration.Integration
	// WithRole returns those of List on which who has a role of their own, by ID, or
	// ErrUnavailable as Get does. It takes as long however many integrations there are,
	// but for the first call after a change.
	WithRole(who authz.Principal) ([]*integration.Integration, error)
	// Faults returns what is kept but is not served as it stands there.
	Faults() []FileFault
	// Status says how fresh Get and List are.
	Status() Status

	// Record returns one integration as it is kept, ErrNotFound if there is none.
	// That includes one that is at fault and not served.
	Record(ctx context.Context, id string) (Record, error)
	// Records returns integrations as they are kept, by ID.
	Records(ctx context.Context, page Page) ([]Record, error)

	// Create keeps a new integration: ErrExists, ErrQuota or *InvalidError. Once
	// it and its like have returned, Get of the same Store shows the change; other
	// replicas follow within a second.
	Create(ctx context.Context, c Change) (Record, error)
	// Update replaces the integration that the document's id names: ErrNotFound,
	// ErrConflict or *InvalidError.
	Update(ctx context.Context, c Change) (Record, error)
	// Delete removes an integration with its credentials and usage: ErrNotFound, or
	// ErrConflict if etag is neither "" nor the record's.
	Delete(ctx context.Context, id, etag string) error

	// Run makes changes that others make take effect until ctx ends, and then
	// returns nil. It is called once at most.
	Run(ctx context.Context) error
	// Reload looks for changes now and returns when they have taken effect.
	Reload()
}

// Page is a part of a list. The zero Page is the whole list.
type Page struct {
	// After is the id that the page begins behind; "" for the first page.
	After string
	// Limit is how many entries are wanted at most; 0 for all.
	Limit int
}

// Change is what Create and Update are to write.
type Change struct {
	// ID, if set, is the id that Document has to have. It spares the Store reading
	// Document for its id.
	ID string
	// Document is the integration in the form that files have it, its id included:
	// YAML, of which JSON is a part. It holds no credential.
	Document []byte
	// Credentials are sealed before they are written and are never read back by
	// any call. Each is named by the setting of the document that would otherwise
	// name its file, without "_file": "azure.credential.client_secret". Update
	// keeps those that it is not given and that the document still has use for,
	// and forgets the others; one that the document has no use for is a fault. The
	// caller wipes them.
	Credentials map[string]secret.Value
	// ETag is that of the record which Update is to replace; "" replaces any.
	ETag string
	// By is who makes the change.
	By authz.Principal
	// ValidateOnly does everything but write: what it returns is what would be
	// kept, without an etag and times. Its credentials open until the caller wipes
	// those given.
	ValidateOnly bool
}

// Record is an integration as it is kept, without its credentials.
type Record struct {
	ID string
	// Document is what was last written, byte by byte.
	Document []byte
	// ETag changes with every write. It means nothing to anybody but the Store.
	ETag string
	// Credentials are the names of the credentials that are kept, sorted.
	Credentials []string
	// CreatedAt and UpdatedAt, and who did it; zero where that is not known, as of
	// files.
	CreatedAt, UpdatedAt time.Time
	CreatedBy, UpdatedBy authz.Principal
	// File is the file that the integration stands in, "" if it is in a database.
	File string
	// Integration is what the document says, nil if that is not acceptable: then
	// Faults say why. There are also Faults that come with an Integration, such as a
	// stored credential that no key opens.
	Integration *integration.Integration
	Faults      strictyaml.Faults
}

// Status says how fresh a Store is.
type Status struct {
	// Backend is "files", "sqlite" or "postgres".
	Backend string
	// Writable: Create, Update and Delete are possible.
	Writable bool
	// SeenAt is when the backend was last found to be as Get and List have it.
	SeenAt time.Time
	// Problem says what keeps the Store from reading its backend, "" if nothing does.
	Problem string
	// RefusesAt is when Get begins to return ErrUnavailable if the Problem lasts;
	// zero without one, and for a Store that never does.
	RefusesAt time.Time
	// Refuses: Get returns ErrUnavailable.
	Refuses bool
	// Held is how many integrations are served although their files have vanished,
	// because several did together; 0 for a database.
	Held int
	// WriteProblem says which writes fail and why, "" if none does: while it lasts
	// no grant can be revoked.
	WriteProblem string
}

// FileFault is a file that does not say what is served in its place.
type FileFault struct {
	// File is the path of the file, or of the directory when that cannot be read or
	// several files have vanished from it.
	File string
	// Faults is never empty.
	Faults strictyaml.Faults
	// Serving is the id of the integration that is served from the file's last
	// good content, "" if none is. It is "" in a fault of the directory.
	Serving string
}
