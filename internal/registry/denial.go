package registry

import (
	"context"

	"github.com/secretbroker/secretbroker/internal/denial"
)

// DenialStore stores the deny list in the database of the integrations, where all replicas
// read it: each puts a change into effect with its next look, like a change of an
// integration. It is safe for concurrent use.
type DenialStore interface {
	// Deny adds an entry, which is in canonical form, and returns it as stored. An entry
	// with the same subject gets the new reason, and expires at the later of both times.
	// Deny removes entries that have expired by the database's clock. When it has returned,
	// the entry is in effect on this replica. Its errors are denial.ErrFull and
	// ErrUnavailable.
	Deny(ctx context.Context, e denial.Entry) (denial.Entry, error)
	// Undeny removes the entry with the subject, which is in canonical form. Its errors are
	// denial.ErrNotFound and ErrUnavailable.
	Undeny(ctx context.Context, s denial.Subject) error
}
