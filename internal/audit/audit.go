// Package audit writes the record of who was given, or refused, which secret.
//
// The rule that everything here serves: a record is written before the value leaves the
// broker, and if it cannot be written, the value does not leave. So a call waits for the
// disk, and the package keeps that wait short and bounded:
//
//   - One goroutine owns the file. It takes all queued records and commits them with one
//     write and one fsync, so that calls share the cost; see Log and linger.go.
//   - Log.Write waits for that commit. Under load Log.Begin returns a Receipt instead, and
//     the server waits for it once for all answers of a connection.
//   - If the file or pipe accepts no more data, calls fail within seconds and never hang.
//
// Limiter limits what refused calls write, so that one caller cannot fill the disk.
//
// Package chain explains the format of the records and how a verifier finds a change in
// them. Package logread verifies and queries logs, and package syslog sends copies to
// collectors. No package here receives a secret's value or knows gRPC or stores.
package audit

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit/chain"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Outcome is the result for one config of a call.
type Outcome string

// The outcomes.
const (
	// Served: the value left the broker.
	Served Outcome = "served"
	// Withheld: the value could have been served, but another config of the call
	// failed.
	Withheld Outcome = "withheld"
	// Checked: the broker read the value for a report. It did not leave the broker.
	Checked Outcome = "checked"
	// Watched: the caller is told when a secret changes, from now until the call ends.
	Watched Outcome = "watched"
	// Answered: the broker answered an auditor's question about grants.
	Answered Outcome = "answered"
	// Attempted: an integration is about to be changed. The record is written before
	// the change; another record of the same request, changed or failed, has the
	// result.
	Attempted Outcome = "attempted"
	// Changed: an integration was created, changed or deleted.
	Changed Outcome = "changed"
	// Denied: the caller may not read the secret, or may not change the integration so.
	Denied Outcome = "denied"
	// Failed: the caller may read the secret, but there is no value; or it may change
	// the integration, but the change failed.
	Failed Outcome = "failed"
	// Rejected: the request was malformed; nothing was decided.
	Rejected Outcome = "rejected"
	// Counted: the record counts refusals of one principal that have no records of
	// their own; see Limiter.
	Counted Outcome = "counted"
)

// ParseOutcome returns the outcome of that name.
func ParseOutcome(s string) (Outcome, error) {
	if o := Outcome(s); slices.Contains(outcomes, o) {
		return o, nil
	}
	names := make([]string, len(outcomes))
	for i, o := range outcomes {
		names[i] = string(o)
	}
	return "", errors.New("expected one of " + strings.Join(names, ", "))
}

var outcomes = []Outcome{Served, Withheld, Checked, Watched, Answered, Attempted, Changed, Denied, Failed, Rejected, Counted}

// Type is the type of a record. Segment headers, which are not Events, have
// chain.TypeSegment.
type Type string

// The types of records.
const (
	// TypeAccess: the outcome of one config of Resolve, Check, Watch or Refresh, or of such a
	// call that was rejected as a whole. All allowed configs of a set of Watch have one
	// record.
	TypeAccess Type = "access"
	// TypeManagement: a call that manages integrations or asks about grants.
	TypeManagement Type = "management"
	// TypeRefusals: the number of refusals of one principal that have no records of their
	// own; see Limiter.
	TypeRefusals Type = "refusals"
	// TypeRestore: no call. The broker found that the database of integrations has gone
	// back to an earlier state.
	TypeRestore Type = "restore"
)

// ParseType returns the type of that name.
func ParseType(s string) (Type, error) {
	if t := Type(s); slices.Contains([]Type{TypeAccess, TypeManagement, TypeRefusals, TypeRestore}, t) {
		return t, nil
	}
	return "", errors.New("expected access, management, refusals or restore")
}

// Event is a record of the log: one config of one call, or one call. The JSON names are a
// stable interface for programs that parse the log. In a log, the member v precedes them,
// the version of the format, and seq and chain follow; see package chain.
type Event struct {
	Type      Type            `json:"type"`
	Time      time.Time       `json:"time"`
	RequestID string          `json:"request_id,omitempty"`
	Method    string          `json:"method,omitempty"`
	Principal authz.Principal `json:"principal"`
	// PeerAddress and the certificate distinguish the instances that share a Principal.
	// CertificateSHA256 is the hash of the certificate's DER form. CertificateSerial is
	// unique only per issuer; certificates are revoked by it. Both are hexadecimal.
	PeerAddress       string `json:"peer_address,omitempty"`
	CertificateSHA256 string `json:"certificate_sha256,omitempty"`
	CertificateSerial string `json:"certificate_serial,omitempty"`
	IntegrationID     string `json:"integration_id,omitempty"`
	// IntegrationRevision is the Revision of the integration whose policy decided. In the
	// record of a change it is the one before it (Attempted) or after it (Changed).
	IntegrationRevision string `json:"integration_revision,omitempty"`
	// Subject is the principal that an auditor asked about.
	Subject authz.Principal `json:"subject,omitempty"`
	// Connector is the name that the caller sent. The broker cannot verify it.
	Connector string `json:"connector,omitempty"`
	Config    string `json:"config,omitempty"`
	// Reference is the canonical reference. It is empty if the config was not a
	// reference, because the text may have been a password.
	Reference string `json:"reference,omitempty"`
	// Store, Secret and JSONKey are the parts of Reference.
	Store   string        `json:"store,omitempty"`
	Secret  string        `json:"secret,omitempty"`
	JSONKey string        `json:"json_key,omitempty"`
	Outcome Outcome       `json:"outcome"`
	Reason  secret.Reason `json:"reason,omitempty"`
	// GrantID is the id of the integration's grant that allowed the read.
	GrantID string `json:"grant_id,omitempty"`
	// Version is the store's identifier of the version that was read.
	Version string `json:"version,omitempty"`
	// Source says where the value came from: hit (the cache), miss (a read of the store
	// that this config started), shared (a read that another call had started), or
	// stale (the cache, because a read failed now or within the last seconds).
	Source string `json:"source,omitempty"`
	// Change is the change of an Attempted record.
	Change *Change `json:"change,omitempty"`
	// Count has the numbers of a Counted record.
	Count *Count `json:"count,omitempty"`
	// Watched has the secrets of a Watched record that concerns a whole set of configs.
	Watched *WatchedSet `json:"watched,omitempty"`
	// Note has further details of a call that concerns no secret.
	Note string `json:"note,omitempty"`
}

// Change describes a change of an integration.
type Change struct {
	// Before and After are the integration's document as JSON, without credentials.
	// Before is empty for a creation, After for a deletion.
	Before json.RawMessage `json:"before,omitempty"`
	After  json.RawMessage `json:"after,omitempty"`
	// Fields are the settings that differ, such as "azure.vaults".
	Fields []string `json:"fields,omitempty"`
	// Credentials are the names of the credentials that are replaced.
	Credentials []string `json:"credentials,omitempty"`
	// Forced: the caller overrode a warning.
	Forced bool `json:"forced,omitempty"`
}

// MaxChange limits the total size of Before and After, in bytes, so that the record of a
// change always fits into a line.
const MaxChange = chain.MaxLine / 2
