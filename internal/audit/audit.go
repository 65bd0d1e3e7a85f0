// Package audit writes the record of who was given, or refused, which secret.
//
// The rule that everything here serves: a record is written before the value leaves the
// broker, and if it cannot be written, the value does not leave. So a call waits for the
// disk, and the package keeps that wait short and bounded:
//
//   - One goroutine owns the file. It takes all records that are queued and commits them
//     with one write and one fsync, so that calls share the cost; see gather.go.
//   - Log.Write waits for that commit. Under load Log.Begin returns a Receipt instead, and
//     the server waits for it once for all answers of a connection.
//   - A file or pipe that takes nothing more makes calls fail within seconds, never hang.
//
// Limiter bounds what refused calls write, so that one caller cannot fill the disk.
//
// Package chain explains the format of the records and how a change of them is found,
// package logread verifies and queries logs, and package syslog sends copies to collectors.
// No package here receives a secret's value or knows gRPC or stores.
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

// Outcome is what came of one config of a call.
type Outcome string

// The outcomes.
const (
	// Served: the value left the broker.
	Served Outcome = "served"
	// Withheld: the value could have been served, but the call failed for
	// another config of it.
	Withheld Outcome = "withheld"
	// Checked: the value was looked at for a report and did not leave.
	Checked Outcome = "checked"
	// Answered: an auditor's question about grants was answered.
	Answered Outcome = "answered"
	// Attempted: an integration is about to be changed. It is recorded before
	// anything is; another record of the same request, changed or failed, says what
	// came of it.
	Attempted Outcome = "attempted"
	// Changed: an integration was created, changed or deleted.
	Changed Outcome = "changed"
	// Denied: the caller may not read the secret, or not do that to the integration.
	Denied Outcome = "denied"
	// Failed: the caller may read the secret, but there is no value; or it may
	// change the integration, but nothing was changed.
	Failed Outcome = "failed"
	// Rejected: the request was malformed; nothing was decided.
	Rejected Outcome = "rejected"
	// Counted: so many refusals of one principal have no records of their own; see
	// Limiter.
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

var outcomes = []Outcome{Served, Withheld, Checked, Answered, Attempted, Changed, Denied, Failed, Rejected, Counted}

// Event is the record of one decision: one config of one call. The JSON names
// are a promise to whoever parses the log. In a log two more follow, seq and
// chain; see package chain.
type Event struct {
	Time      time.Time       `json:"time"`
	RequestID string          `json:"request_id"`
	Method    string          `json:"method"`
	Principal authz.Principal `json:"principal"`
	// PeerAddress and CertificateSerial (hexadecimal) tell apart the instances
	// that share a Principal.
	PeerAddress       string `json:"peer_address,omitempty"`
	CertificateSerial string `json:"certificate_serial,omitempty"`
	Integration       string `json:"integration,omitempty"`
	// Subject is whom an auditor asked about.
	Subject authz.Principal `json:"subject,omitempty"`
	// Connector is the caller's claim and proves nothing.
	Connector string `json:"connector,omitempty"`
	Config    string `json:"config,omitempty"`
	// Reference is canonical; it is empty when the config was not a reference,
	// since what stood there may have been a password.
	Reference string        `json:"reference,omitempty"`
	Outcome   Outcome       `json:"outcome"`
	Reason    secret.Reason `json:"reason,omitempty"`
	// Grant is the index of the integration's grant that allowed the read.
	Grant *int `json:"grant,omitempty"`
	// Version is the store's version identifier of what was read.
	Version string `json:"version,omitempty"`
	// Source says where the value came from: hit, miss, shared or stale. It tells
	// what was asked of the store: a miss is a read that this config began, shared
	// one that another had begun, a hit none, and stale one that failed, now or
	// within the last seconds.
	Source string `json:"source,omitempty"`
	// Change is what an Attempted record is about.
	Change *Change `json:"change,omitempty"`
	// Count is what a Counted record is about.
	Count *Count `json:"count,omitempty"`
	// Note is what else there is to say of a call that is about no secret.
	Note string `json:"note,omitempty"`
}

// Change is what is done to an integration.
type Change struct {
	// Before and After are the integration's document as JSON, without credentials;
	// empty before it was created and after it was deleted.
	Before json.RawMessage `json:"before,omitempty"`
	After  json.RawMessage `json:"after,omitempty"`
	// Fields are the settings that differ, such as "azure.vaults".
	Fields []string `json:"fields,omitempty"`
	// Credentials are the names of those that are replaced.
	Credentials []string `json:"credentials,omitempty"`
	// Forced: the caller asked for it against a warning.
	Forced bool `json:"forced,omitempty"`
}

// MaxChange is how many bytes Before and After may have together, so that the
// record of a change is never too long for a line.
const MaxChange = chain.MaxLine / 2
