// Package campaign restarts the connectors of Kafka Connect that use a rotated secret, and
// proves that they have the new version.
//
// A campaign begins with one connector, the canary. When that is proved, it restarts the
// others, within the limits of each cluster. A connector that fails halts the campaign. The
// proof of a connector has four parts, all of which are required:
//
//   - the cluster accepted the restart of the connector and all its tasks;
//   - afterwards, the identity of each worker that runs the connector or a task read the new
//     version of each secret through the broker;
//   - the connector and all its tasks have been RUNNING for the settle time;
//   - none of these identities read an older version afterwards.
//
// Before each restart the engine makes the broker read the secrets, because a connector that
// restarts while its secrets cannot be resolved does not come back.
//
// The state of a campaign is plain data. It is stored before and after each step, so another
// engine can go on with it.
package campaign

import (
	"context"
	"slices"
	"time"

	"github.com/secretbroker/secretbroker/internal/connectapi"
	"github.com/secretbroker/secretbroker/internal/connectmap"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// State is the state of a campaign or of one of its connectors.
type State string

// The states. A campaign is Pending, Running, Paused, or in one of the final states Verified,
// Stalled, Halted and Aborted. A connector is Pending, Running, Verified, Stalled, Failed or
// Skipped.
const (
	Pending State = "PENDING"
	// Running: a campaign that restarts connectors, or a connector between the request to
	// restart and its proof.
	Running State = "RUNNING"
	// Paused: no further connector is restarted until Resume.
	Paused State = "PAUSED"
	// Verified: the proof is complete.
	Verified State = "VERIFIED"
	// Stalled: a part of the proof is missing.
	Stalled State = "STALLED"
	// Failed: the connector or a task is FAILED after the restart, or did not come back.
	Failed State = "FAILED"
	// Halted: a connector failed, and the remaining ones were not restarted.
	Halted State = "HALTED"
	// Aborted: a person ended the campaign.
	Aborted State = "ABORTED"
	// Skipped: the connector is not to be restarted.
	Skipped State = "SKIPPED"
)

// Final reports whether a campaign in this state has ended.
func (s State) Final() bool { return s == Verified || s == Stalled || s == Halted || s == Aborted }

// Campaign is the restart of some connectors. Times are those of the engine's clock unless
// they are said to be the broker's.
type Campaign struct {
	ID         string    `json:"id"`
	State      State     `json:"state"`
	Reason     string    `json:"reason,omitempty"`
	CreateTime time.Time `json:"create_time"`
	EndTime    time.Time `json:"end_time,omitzero"`
	// SingleUser says that the old login ended with the rotation, so connectors that have
	// FAILED are restarted first. Otherwise they are restarted last.
	SingleUser bool `json:"single_user"`
	// Connectors are in the order in which they are restarted.
	Connectors []*Connector `json:"connectors"`
}

// Connector is one connector of a campaign.
type Connector struct {
	Cluster string `json:"cluster"`
	Name    string `json:"name"`
	State   State  `json:"state"`
	// Reason says why a connector is in its state, or what it waits for.
	Reason string `json:"reason,omitempty"`
	// References are the rotated ones in the connector's configuration.
	References []Reference `json:"references"`
	Canary     bool        `json:"canary,omitempty"`
	// FailedBefore reports that the connector or a task had failed before the restart.
	FailedBefore bool `json:"failed_before,omitempty"`
	// Tasks is the number of tasks before the restart.
	Tasks int `json:"tasks"`
	// Attempts counts requests to restart that may have had an effect.
	Attempts    int       `json:"attempts,omitempty"`
	AttemptTime time.Time `json:"attempt_time,omitzero"`
	AcceptTime  time.Time `json:"accept_time,omitzero"`
	// VerifyTime is when the proof was complete.
	VerifyTime time.Time `json:"verify_time,omitzero"`
	// Proof are the reads that prove the new version, one of each identity for each
	// reference.
	Proof []Read `json:"proof,omitempty"`
	// Weak reports that reads of other connectors of the same identity cannot be told from
	// those of this connector, because the placeholders name no connector.
	Weak bool `json:"weak,omitempty"`
	// Missing are the parts of the proof that are missing.
	Missing []string `json:"missing,omitempty"`

	// NotBefore delays the next attempt. ProofFrom and OldUntil are the time of the restart by
	// the broker's clock: not before the one and not after the other.
	NotBefore time.Time `json:"not_before,omitzero"`
	ProofFrom time.Time `json:"proof_from,omitzero"`
	OldUntil  time.Time `json:"old_until,omitzero"`
	// RunningSince, FailedSince and StuckSince are when these states were first seen.
	RunningSince time.Time `json:"running_since,omitzero"`
	FailedSince  time.Time `json:"failed_since,omitzero"`
	StuckSince   time.Time `json:"stuck_since,omitzero"`
	// Changed reports that a state other than FAILED was seen after the restart.
	Changed bool `json:"changed,omitempty"`
}

// Reference is one reference of a connector.
type Reference struct {
	Property    string `json:"property"`
	Integration string `json:"integration"`
	// Label is the connector that the placeholder names, or "".
	Label string `json:"label,omitempty"`
	// Reference is in canonical form.
	Reference string `json:"reference"`
	// Version is the version that the connector must read.
	Version string `json:"version,omitempty"`
}

func (r *Reference) ref() secret.Ref {
	ref, _ := secret.ParseRef(r.Reference) // is the canonical form of a parsed one
	return ref
}

// Read is the use of one version of a secret by one principal. Times are the broker's.
type Read struct {
	Integration string `json:"integration"`
	Principal   string `json:"principal"`
	// Connector is the connector that the caller named, or "".
	Connector string    `json:"connector,omitempty"`
	Store     string    `json:"store"`
	Secret    string    `json:"secret"`
	JSONKey   string    `json:"json_key,omitempty"`
	Version   string    `json:"version"`
	LastTime  time.Time `json:"last_time"`
	// FirstTime, RequestID, AuditSequence and Replica are of the first read of the version.
	FirstTime     time.Time `json:"first_time,omitzero"`
	RequestID     string    `json:"request_id,omitempty"`
	AuditSequence int64     `json:"audit_sequence,omitempty"`
	Replica       string    `json:"replica,omitempty"`
}

// Connect is the REST API of a cluster. connectapi.Client implements it.
type Connect interface {
	Get(ctx context.Context, name string) (connectapi.Connector, error)
	Status(ctx context.Context, name string) (connectapi.Status, error)
	Restart(ctx context.Context, name string) error
}

// Cluster is a cluster and its API. Settings.Restarts must not be nil.
type Cluster struct {
	Settings connectapi.Cluster
	API      Connect
}

// Broker is what the engine needs of the broker.
type Broker interface {
	// Refresh makes the broker read secrets of an integration now. It fails if any of them
	// cannot be read, or if a replica may still answer with an older version.
	Refresh(ctx context.Context, integration string, references []string) (map[string]Fresh, error)
	// Reads returns the reads of a secret through an integration.
	Reads(ctx context.Context, integration string, of secret.Ref) ([]Read, error)
}

// Fresh is the version of a secret that the broker has read. FetchTime is when the read
// began, by the broker's clock.
type Fresh struct {
	Version   string
	FetchTime time.Time
}

// Store keeps the state of a campaign. Save must have stored it when it returns nil.
type Store interface {
	Save(ctx context.Context, c *Campaign) error
}

// Clone returns a copy of c that shares nothing with it.
func (c *Campaign) Clone() *Campaign {
	copied := *c
	copied.Connectors = make([]*Connector, len(c.Connectors))
	for i, it := range c.Connectors {
		copied.Connectors[i] = it.clone()
	}
	return &copied
}

func (it *Connector) clone() *Connector {
	copied := *it
	copied.References, copied.Proof, copied.Missing = slices.Clone(it.References), slices.Clone(it.Proof), slices.Clone(it.Missing)
	return &copied
}

// referencesOf returns the references among uses of a connector that a campaign is about:
// those to the current version through the broker. Pinned ones do not change.
func referencesOf(uses []connectmap.Use, selects func(*connectmap.Use) bool) []Reference {
	var list []Reference
	for i := range uses {
		u := &uses[i]
		if u.ThroughBroker() && !u.Ref.IsPinned() && selects(u) {
			list = append(list, Reference{Property: u.Property, Integration: u.Integration, Label: u.Label, Reference: u.Ref.String()})
		}
	}
	return list
}
