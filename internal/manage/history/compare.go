package history

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/manage"
)

// Kept is an integration as a database has it.
type Kept struct {
	Document []byte
	// UpdatedAt is when it was last written; zero if that is not known.
	UpdatedAt time.Time
}

// Kind is in which way a database differs from the logs. The names are a promise.
type Kind string

// The kinds of differences.
const (
	// GrantReturned: a grant is in force that the logs do not have.
	GrantReturned Kind = "grant_returned"
	// GrantLost: a grant is missing that the logs have.
	GrantLost Kind = "grant_lost"
	// IntegrationReturned: an integration is there that was deleted.
	IntegrationReturned Kind = "integration_returned"
	// IntegrationLost: an integration is missing that was not deleted.
	IntegrationLost Kind = "integration_lost"
	// SettingDiffers: any other setting of the document.
	SettingDiffers Kind = "setting_differs"
	// CredentialOld: a credential was replaced after the database's last change of
	// the integration, so that an older one is in use.
	CredentialOld Kind = "credential_old"
)

// Finding is one difference.
type Finding struct {
	Integration string `json:"integration"`
	Kind        Kind   `json:"kind"`
	// Setting is what differs, such as "azure.vaults"; empty for whole integrations.
	Setting string `json:"setting,omitempty"`
	// Recorded is what the logs have, Database what the database has: plain values,
	// nil for nothing.
	Recorded any `json:"recorded,omitempty"`
	Database any `json:"database,omitempty"`
	// Last is the last recorded change of the integration.
	Last *Change `json:"last_change"`
}

// Report is what a comparison found.
type Report struct {
	// Findings are sorted by integration, returned grants first.
	Findings []Finding
	// Unrecorded are integrations in the database that no log mentions, sorted.
	// Nothing can be said about them.
	Unrecorded []string
}

// Compare says where a database differs from the state after the last recorded
// changes. A change that may or may not have been made is no difference in either
// case.
func (h *History) Compare(kinds *integration.Kinds, database map[string]Kept) Report {
	var r Report
	ids := make(map[string]bool)
	for id := range database {
		ids[id] = true
	}
	for id := range h.changes {
		ids[id] = true
	}
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		kept, there := database[id]
		changes := h.changes[id]
		if len(changes) == 0 {
			r.Unrecorded = append(r.Unrecorded, id)
			continue
		}
		r.Findings = append(r.Findings, compareOne(kinds, id, changes, kept, there)...)
	}
	return r
}

// compareOne compares an integration with each state that the logs permit, and
// returns what differs from the last one unless one of them is as the database is.
func compareOne(kinds *integration.Kinds, id string, changes []*Change, kept Kept, there bool) []Finding {
	var found []Finding
	for i := len(changes) - 1; i >= 0; i-- {
		c := changes[i]
		differs := compareDocument(kinds, id, c, c.after, kept, there)
		if i == len(changes)-1 {
			found = differs
		}
		if len(differs) == 0 {
			found = nil
			break
		}
		if c.certain {
			break
		}
		if i == 0 && len(compareDocument(kinds, id, c, c.before, kept, there)) == 0 {
			found = nil // the first change may not have been made
		}
	}
	if there {
		found = append(found, oldCredentials(id, changes, kept)...)
	}
	return found
}

// compareDocument compares a recorded document, nil for none, with the database.
func compareDocument(kinds *integration.Kinds, id string, last *Change, recorded json.RawMessage, kept Kept, there bool) (found []Finding) {
	switch {
	case len(recorded) == 0 && !there:
		return nil
	case len(recorded) == 0:
		found = append(found, Finding{Integration: id, Kind: IntegrationReturned, Last: last})
		doc := kinds.DecodeDocument(id, kept.Document).Document
		return append(found, differences(id, last, &manage.Document{ID: doc.ID, Kind: doc.Kind}, &doc, true)...)
	case !there:
		return []Finding{{Integration: id, Kind: IntegrationLost, Last: last}}
	}
	before, after := kinds.DecodeDocument(id, recorded).Document, kinds.DecodeDocument(id, kept.Document).Document
	return differences(id, last, &before, &after, false)
}

// differences are those between a recorded document and that of the database.
func differences(id string, last *Change, recorded, database *manage.Document, grantsAlone bool) (returned []Finding) {
	var rest []Finding
	for _, d := range manage.Diff(recorded, database) {
		f := Finding{Integration: id, Kind: SettingDiffers, Setting: d.Setting, Recorded: d.Before, Database: d.After, Last: last}
		isGrant := strings.HasPrefix(d.Setting, "grants[")
		switch {
		case isGrant && d.Before == nil:
			f.Kind = GrantReturned
			returned = append(returned, f)
			continue
		case isGrant:
			f.Kind = GrantLost
		case grantsAlone:
			continue
		}
		rest = append(rest, f)
	}
	return append(returned, rest...)
}

// oldCredentials are those that were replaced after the database's last write. The
// clocks are those of one broker: it records an attempt, writes, and records the
// outcome.
func oldCredentials(id string, changes []*Change, kept Kept) (found []Finding) {
	if kept.UpdatedAt.IsZero() {
		return nil
	}
	replaced := make(map[string]*Change)
	for _, c := range changes {
		if !c.certain || len(c.after) == 0 || !c.attempted.Truncate(time.Microsecond).After(kept.UpdatedAt) {
			continue
		}
		for _, name := range c.credentials {
			replaced[name] = c
		}
	}
	for _, name := range slices.Sorted(maps.Keys(replaced)) {
		found = append(found, Finding{Integration: id, Kind: CredentialOld, Setting: name, Last: replaced[name]})
	}
	return found
}
