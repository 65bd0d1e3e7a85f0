// Package history compares the integrations in a database with the changes in audit logs.
// After a backup was restored, grants that were revoked since are in effect again, and
// later changes are missing.
//
// Read replays the changes that the logs of all replicas contain, in the order of their
// times, and Compare says how a database differs from that. The caller reads the
// integrations from the database. Restores reports the same while a broker runs, when its
// database detects that it was restored.
package history

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/audit/logread"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Change is a recorded change of one integration.
type Change struct {
	// Time is the time of the record of its outcome, or of the attempt if there is no
	// outcome.
	Time      time.Time       `json:"time"`
	Method    string          `json:"method"`
	Principal authz.Principal `json:"principal"`
	RequestID string          `json:"request_id"`

	attempted time.Time
	// certain: the log shows that the change was made. Otherwise it may have been made:
	// the broker stopped or lost its database during it.
	certain       bool
	before, after json.RawMessage
	credentials   []string
}

// History has the recorded changes of integrations. It is immutable after Read.
type History struct {
	changes map[string][]*Change // by integration id, the oldest first
	// Changes is the number of changes, and Unreadable the number of lines that are not
	// records.
	Changes, Unreadable int
}

// Read replays audit logs. The files of one broker must be in the order in which they were
// written. The order of the brokers does not matter.
func Read(ctx context.Context, files []string) (*History, error) {
	h := &History{changes: make(map[string][]*Change)}
	open := make(map[string]*Change) // attempts whose outcome is not known
	var err error
	h.Unreadable, err = logread.Query(ctx, &logread.Filter{Outcomes: []audit.Outcome{audit.Attempted, audit.Changed, audit.Failed}}, files, func(r *logread.Record) error {
		key := r.RequestID + "\x00" + r.IntegrationID
		if r.Outcome == audit.Attempted {
			if c := changeOf(r); c != nil {
				open[key] = c
				h.add(r.IntegrationID, c)
			}
			return nil
		}
		c := open[key]
		if c == nil {
			return nil // a failed read, or the attempt is in a file that was not given
		}
		delete(open, key)
		switch {
		case r.Outcome == audit.Changed:
			c.Time, c.certain = r.Time, true
		case !mayBeMade(r.Reason):
			h.remove(r.IntegrationID, c)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, list := range h.changes {
		slices.SortStableFunc(list, func(a, b *Change) int { return a.Time.Compare(b.Time) })
		h.Changes += len(list)
	}
	return h, nil
}

// changeOf returns the attempted change of a record, nil if the record has none.
func changeOf(r *logread.Record) *Change {
	if r.Change == nil || r.IntegrationID == "" {
		return nil
	}
	return &Change{
		Time: r.Time, Method: r.Method, Principal: r.Principal, RequestID: r.RequestID, attempted: r.Time,
		before: bytes.Clone(r.Change.Before), after: bytes.Clone(r.Change.After), credentials: r.Change.Credentials,
	}
}

// mayBeMade reports whether a change that failed for this reason may have been made
// nevertheless, because the answer of the database was lost.
func mayBeMade(reason secret.Reason) bool {
	switch reason {
	case secret.ReasonIntegrationChanged, secret.ReasonIntegrationNotFound, secret.ReasonIntegrationExists, secret.ReasonIntegrationReadOnly,
		secret.ReasonInvalidIntegration, secret.ReasonInvalidRequest, secret.ReasonQuotaExceeded, secret.ReasonIntegrationInUse:
		return false
	default:
		return true
	}
}

func (h *History) add(id string, c *Change) { h.changes[id] = append(h.changes[id], c) }

func (h *History) remove(id string, c *Change) {
	h.changes[id] = slices.DeleteFunc(h.changes[id], func(other *Change) bool { return other == c })
	if len(h.changes[id]) == 0 {
		delete(h.changes, id)
	}
}

// String describes the change on one line.
func (c *Change) String() string {
	return fmt.Sprintf("%s %s by %s", c.Time.UTC().Format(time.RFC3339), c.Method, c.Principal)
}
