package history

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
)

// Kept is an integration in a database.
type Kept struct {
	Document []byte
	// UpdatedAt is the time of its last write; zero if unknown.
	UpdatedAt time.Time
}

// Kind is the kind of a difference between a database and the logs. The names are a stable
// interface.
type Kind string

// The kinds of differences.
const (
	// GrantReturned: the database has a grant that the logs do not have.
	GrantReturned Kind = "grant_returned"
	// GrantLost: the logs have a grant that the database does not have.
	GrantLost Kind = "grant_lost"
	// IntegrationReturned: the database has an integration that was deleted.
	IntegrationReturned Kind = "integration_returned"
	// IntegrationLost: the database does not have an integration that was not deleted.
	IntegrationLost Kind = "integration_lost"
	// SettingDiffers: another setting of the document differs.
	SettingDiffers Kind = "setting_differs"
	// CredentialOld: a credential was replaced after the database's last change of the
	// integration, so the database has an older one.
	CredentialOld Kind = "credential_old"
)

// Finding is one difference.
type Finding struct {
	IntegrationID string `json:"integration_id"`
	Kind          Kind   `json:"kind"`
	// Setting is the setting that differs, such as "azure.vaults"; empty for whole
	// integrations.
	Setting string `json:"setting,omitempty"`
	// Recorded and Database are the values in the logs and in the database: plain
	// values, nil if there is none.
	Recorded any `json:"recorded,omitempty"`
	Database any `json:"database,omitempty"`
	// Last is the last recorded change of the integration.
	Last *Change `json:"last_change"`
}

// Report is the result of a comparison.
type Report struct {
	// Findings are sorted by integration, returned grants first.
	Findings []Finding
	// Unrecorded are the integrations in the database that no log mentions, sorted. They
	// cannot be compared.
	Unrecorded []string
}

// Compare returns the differences between a database and the state after the last recorded
// changes. If it is unknown whether a change was made, both states are accepted.
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

// compareOne compares an integration with each state that the logs permit. It returns nil
// if one of them equals the database, and otherwise the differences from the last one.
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
			found = nil // the first change may have failed
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
		found = append(found, Finding{IntegrationID: id, Kind: IntegrationReturned, Last: last})
		doc := kinds.DecodeDocument(id, kept.Document).Document
		return append(found, differences(id, last, &integration.Document{ID: doc.ID, Kind: doc.Kind}, &doc, true)...)
	case !there:
		return []Finding{{IntegrationID: id, Kind: IntegrationLost, Last: last}}
	}
	before, after := kinds.DecodeDocument(id, recorded).Document, kinds.DecodeDocument(id, kept.Document).Document
	return differences(id, last, &before, &after, false)
}

// differences returns the differences between a recorded document and that of the database.
func differences(id string, last *Change, recorded, database *integration.Document, grantsAlone bool) (returned []Finding) {
	var rest []Finding
	for _, d := range integration.Diff(recorded, database) {
		f := Finding{IntegrationID: id, Kind: SettingDiffers, Setting: d.Setting, Recorded: d.Before, Database: d.After, Last: last}
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

// oldCredentials returns the credentials that were replaced after the database's last
// write. Their times are comparable, because one broker records an attempt, writes, and
// records the outcome.
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
		found = append(found, Finding{IntegrationID: id, Kind: CredentialOld, Setting: name, Last: replaced[name]})
	}
	return found
}
