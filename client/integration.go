package client

import (
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// Role determines what a principal may do with an integration. No role allows it to read
// secrets.
type Role string

// The roles.
const (
	RoleResourceOwner Role = "RESOURCE_OWNER"
	RoleAssigner      Role = "ASSIGNER"
	RoleAuditor       Role = "AUDITOR"
	RoleRotator       Role = "ROTATOR"
)

// Integration is a provider integration: a cloud identity, the stores that it may read, and
// the principals that may use it. The names are those of an integration's file; see
// docs/configuration.md.
type Integration struct {
	// ID and Kind never change.
	ID          string
	DisplayName string
	Kind        string
	// Settings is the section of the kind, as plain maps, lists, strings, bools and
	// numbers (float64 in an answer).
	Settings map[string]any
	// Zero means the broker's defaults.
	CacheTTL, CacheMaxStale time.Duration
	Reads                   IntegrationReads
	Placement               Placement
	Grants                  []Grant
	// Roles are patterns of principals by role.
	Roles map[Role][]string
	// Credentials are sent but never returned: the content of each, by the name of the
	// setting that would otherwise contain the path of its file, without "_file". Others
	// stay unchanged.
	Credentials map[string][]byte

	// The fields below are returned and not sent, except ETag: a change with an ETag fails
	// if the integration has changed since it was read.
	ETag string
	// UID distinguishes the integration from deleted ones with the same ID; "" for an
	// integration in a file.
	UID             string
	Revision        string
	CredentialNames []string
	// When and by whom the integration was created and last changed; zero if unknown.
	CreateTime, UpdateTime time.Time
	Creator, Updater       string
	// ReadOnly reports that the integration is a file of the broker.
	ReadOnly bool
	// Facts are what a person needs to know about integrations of this kind.
	Facts []Fact
	// LastUseTime is zero if no use is recorded; UsageRecording says since when uses are.
	LastUseTime    time.Time
	UsageRecording UsageRecording
	// Problems are the reasons why the broker does not use the integration as it is, and
	// State says what is in effect instead.
	Problems []Problem
	State    IntegrationState
	// EventSources are the sources of events about the integration's secrets. Only
	// GetIntegration returns them.
	EventSources []EventSource
	// Unknown lists the fields, as in UpdateIntegrationRequest.Mask, that contain something
	// which this version of the package does not know and cannot send, such as a new
	// condition of a grant. UpdateIntegration refuses to replace them.
	Unknown []string
}

// IntegrationState says whether an integration is in effect.
type IntegrationState string

// The states. A newer broker may have others, which are IntegrationStateUnknown.
const (
	IntegrationStateUnknown IntegrationState = ""
	// IntegrationActive is the state of an integration that is in effect as it is stored.
	IntegrationActive IntegrationState = "ACTIVE"
	// IntegrationDegraded is the state of an integration that is in effect although it has
	// problems. If its file was changed to an invalid one, or has disappeared, the
	// Integration is the last valid content, which is in effect.
	IntegrationDegraded IntegrationState = "DEGRADED"
	// IntegrationInactive is the state of an integration of which nothing is in effect. If it
	// is invalid, the Integration may have only the ID.
	IntegrationInactive IntegrationState = "INACTIVE"
)

var integrationStates = map[secretbrokerv1.IntegrationState]IntegrationState{
	secretbrokerv1.IntegrationState_INTEGRATION_STATE_ACTIVE:   IntegrationActive,
	secretbrokerv1.IntegrationState_INTEGRATION_STATE_DEGRADED: IntegrationDegraded,
	secretbrokerv1.IntegrationState_INTEGRATION_STATE_INACTIVE: IntegrationInactive,
}

// UsageRecording says what usage the broker records. Uses before that, or of other replicas,
// are not in its answers.
type UsageRecording struct {
	// RecordedSince is since when uses are recorded; zero if that is unknown.
	RecordedSince time.Time
	// GrantsRecordedSince is since when uses of the grants, as they are now, are recorded:
	// the last change of the integration, if that is later.
	GrantsRecordedSince time.Time
	// ReplicaOnly reports that the broker records only the uses of the replica that answered.
	ReplicaOnly bool
}

func usageRecordingOf(m *secretbrokerv1.UsageRecording) UsageRecording {
	return UsageRecording{timeOf(m.GetRecordedSince()), timeOf(m.GetGrantsRecordedSince()), m.GetReplicaOnly()}
}

// IntegrationReads limits the reads of each store. A field that is zero has the broker's
// default.
type IntegrationReads struct {
	MaxConcurrent int
	PerSecond     int
	Timeout       time.Duration
}

// Placement is where an integration's stores are.
type Placement struct{ Cloud, Region string }

// Grant allows principals to read secrets; see docs/configuration.md. An empty list does not
// restrict its field.
type Grant struct {
	// ID is the name of the grant. If it is empty, the broker returns an id that depends on
	// the lists only; a grant whose lists are changed must not keep such an id.
	ID                                string
	Principals, Stores, Secrets, Keys []string
}

// Fact is a line about an integration, or a document of several lines to paste into the
// cloud's console.
type Fact struct {
	// ID identifies the fact for programs, such as "AWS_EXTERNAL_ID"; Name is for people.
	ID, Name, Value string
}

// Problem is one reason why the broker does not use an integration.
type Problem struct {
	Reason  Reason
	Message string
}

// StepState is the outcome of a step of a validation.
type StepState string

// The outcomes. A newer broker may have others, which are StepUnknown.
const (
	StepUnknown StepState = ""
	StepOK      StepState = "OK"
	StepFailed  StepState = "FAILED"
	// StepSkipped is the state of a step that was not tried because an earlier one failed.
	StepSkipped StepState = "SKIPPED"
	// StepUnchecked is the state of a step whose result is not known. It is not a failure.
	StepUnchecked StepState = "UNCHECKED"
)

var stepStates = map[secretbrokerv1.ValidationStep_State]StepState{
	secretbrokerv1.ValidationStep_STATE_OK:        StepOK,
	secretbrokerv1.ValidationStep_STATE_FAILED:    StepFailed,
	secretbrokerv1.ValidationStep_STATE_SKIPPED:   StepSkipped,
	secretbrokerv1.ValidationStep_STATE_UNCHECKED: StepUnchecked,
}

// ValidationStep is the result of one step of a validation.
type ValidationStep struct {
	// Step is what was tried, such as "TOKEN" or "READ_STORE", and Store the store, for a step
	// of a single one.
	Step, Store string
	State       StepState
	// Reason is one of the constants if the step failed; Message says how to fix the problem.
	Reason  Reason
	Message string
}

// Usage is what one principal has read through an integration.
type Usage struct {
	IntegrationID          string
	Principal, Connector   string
	Store, Secret, JSONKey string
	// Version is the version that was read last.
	Version string
	// Versions are the last versions that were read, at most four, the one that was read last
	// first.
	Versions                  []VersionUse
	FirstUseTime, LastUseTime time.Time
	// GrantID is the id of the grant that allowed the reads, "" if the broker no longer
	// knows it.
	GrantID string
	// CurrentVersion is the version that the broker found when it last read the secret from
	// its store, through any integration that the caller has a role on; "" if it is unknown.
	CurrentVersion string
	// State says whether Version is CurrentVersion.
	State VersionState
	// Attribution says what the entry distinguishes.
	Attribution UsageAttribution
}

// VersionUse is what one principal has read of one version of a secret.
type VersionUse struct {
	Version string
	// FirstUseTime is zero if it is unknown.
	FirstUseTime, LastUseTime time.Time
	// RequestID identifies the call of the first read, and AuditSequence is the number of its
	// record in the chain of the audit log of Replica. They are zero if they are unknown.
	RequestID     string
	AuditSequence int64
	Replica       string
}

// VersionState says whether a use has read the current version of its secret last.
type VersionState string

// The states.
const (
	// VersionUnknown: the current version is not known, the secrets have no lasting versions, or the
	// broker is older than the state.
	VersionUnknown  VersionState = "UNKNOWN"
	VersionCurrent  VersionState = "CURRENT"
	VersionOutdated VersionState = "OUTDATED"
)

// UsageAttribution says what an entry of usage distinguishes. It is empty if the broker is older
// than it.
type UsageAttribution string

// The attributions.
const (
	// UsageOfConnector: the caller named its connector, which is not verified.
	UsageOfConnector UsageAttribution = "CONNECTOR"
	// UsageOfPrincipal: the entry has the reads of all connectors that the principal did not
	// name. Each of them may still use any of the versions.
	UsageOfPrincipal UsageAttribution = "PRINCIPAL"
)

func (g Grant) message() *secretbrokerv1.Grant {
	return &secretbrokerv1.Grant{Id: g.ID, Principals: g.Principals, Stores: g.Stores, Secrets: g.Secrets, Keys: g.Keys}
}

func stepsOf(list []*secretbrokerv1.ValidationStep) []ValidationStep {
	var steps []ValidationStep
	for _, s := range list {
		steps = append(steps, ValidationStep{Step: s.GetStep(), Store: s.GetStore(), State: stepStates[s.GetState()], Reason: Reason(s.GetReason()), Message: s.GetMessage()})
	}
	return steps
}

func newListUsageResponse(m *secretbrokerv1.ListUsageResponse) *ListUsageResponse {
	r := &ListUsageResponse{UnusedGrantIDs: m.GetUnusedGrantIds(), Recording: usageRecordingOf(m.GetRecording()), RequestID: m.GetRequestId()}
	for _, u := range m.GetUsage() {
		r.Usage = append(r.Usage, newUsage(u))
	}
	return r
}

var versionStates = map[secretbrokerv1.VersionState]VersionState{
	secretbrokerv1.VersionState_VERSION_STATE_CURRENT:  VersionCurrent,
	secretbrokerv1.VersionState_VERSION_STATE_OUTDATED: VersionOutdated,
}

var usageAttributions = map[secretbrokerv1.UsageAttribution]UsageAttribution{
	secretbrokerv1.UsageAttribution_USAGE_ATTRIBUTION_CONNECTOR: UsageOfConnector,
	secretbrokerv1.UsageAttribution_USAGE_ATTRIBUTION_PRINCIPAL: UsageOfPrincipal,
}

func newUsage(m *secretbrokerv1.Usage) Usage {
	u := Usage{
		IntegrationID: m.GetIntegrationId(), Principal: m.GetPrincipal(), Connector: m.GetConnector(), Store: m.GetStore(), Secret: m.GetSecret(), JSONKey: m.GetJsonKey(),
		Version: m.GetVersion(), FirstUseTime: timeOf(m.GetFirstUseTime()), LastUseTime: timeOf(m.GetLastUseTime()), GrantID: m.GetGrantId(),
		CurrentVersion: m.GetCurrentVersion(),
		State:          VersionUnknown, Attribution: usageAttributions[m.GetAttribution()],
	}
	if state, ok := versionStates[m.GetState()]; ok {
		u.State = state
	}
	for _, v := range m.GetVersions() {
		u.Versions = append(u.Versions, VersionUse{
			Version: v.GetVersion(), FirstUseTime: timeOf(v.GetFirstUseTime()), LastUseTime: timeOf(v.GetLastUseTime()),
			RequestID: v.GetRequestId(), AuditSequence: v.GetAuditSequence(), Replica: v.GetReplica(),
		})
	}
	return u
}

type wireRole struct {
	role Role
	wire secretbrokerv1.Role
}

var wireRoles = []wireRole{
	{RoleResourceOwner, secretbrokerv1.Role_ROLE_RESOURCE_OWNER},
	{RoleAssigner, secretbrokerv1.Role_ROLE_ASSIGNER},
	{RoleAuditor, secretbrokerv1.Role_ROLE_AUDITOR},
	{RoleRotator, secretbrokerv1.Role_ROLE_ROTATOR},
}

func (in *Integration) message() (*secretbrokerv1.Integration, error) {
	if in == nil {
		return nil, &Error{Code: codes.InvalidArgument, Reason: ReasonInvalidRequest, Message: "the request has no integration"}
	}
	m := &secretbrokerv1.Integration{Id: in.ID, DisplayName: in.DisplayName, Kind: in.Kind, Credentials: in.Credentials, Etag: in.ETag}
	if len(in.Settings) > 0 {
		settings, err := structpb.NewStruct(in.Settings)
		if err != nil {
			return nil, &Error{Code: codes.InvalidArgument, Reason: ReasonInvalidRequest, Message: "the settings: " + err.Error()}
		}
		m.Settings = settings
	}
	if in.CacheTTL != 0 || in.CacheMaxStale != 0 {
		m.Cache = &secretbrokerv1.IntegrationCache{Ttl: durationOf(in.CacheTTL), MaxStale: durationOf(in.CacheMaxStale)}
	}
	if r := in.Reads; r != (IntegrationReads{}) {
		m.Reads = &secretbrokerv1.IntegrationReads{
			MaxConcurrent: int32(r.MaxConcurrent), //nolint:gosec // the broker allows 1,024
			PerSecond:     int32(r.PerSecond),     //nolint:gosec // the broker allows 100,000
			Timeout:       durationOf(r.Timeout),
		}
	}
	if in.Placement != (Placement{}) {
		m.Placement = &secretbrokerv1.Placement{Cloud: in.Placement.Cloud, Region: in.Placement.Region}
	}
	for _, g := range in.Grants {
		m.Grants = append(m.Grants, g.message())
	}
	for _, r := range wireRoles {
		if patterns := in.Roles[r.role]; len(patterns) > 0 {
			m.Roles = append(m.Roles, &secretbrokerv1.RoleBinding{Role: r.wire, Principals: patterns})
		}
	}
	return m, nil
}

func newIntegration(m *secretbrokerv1.Integration) *Integration {
	in := &Integration{
		ID: m.GetId(), UID: m.GetUid(), DisplayName: m.GetDisplayName(), Kind: m.GetKind(),
		CacheTTL: m.GetCache().GetTtl().AsDuration(), CacheMaxStale: m.GetCache().GetMaxStale().AsDuration(),
		Reads: IntegrationReads{
			MaxConcurrent: int(m.GetReads().GetMaxConcurrent()), PerSecond: int(m.GetReads().GetPerSecond()),
			Timeout: m.GetReads().GetTimeout().AsDuration(),
		},
		Placement: Placement{m.GetPlacement().GetCloud(), m.GetPlacement().GetRegion()},
		ETag:      m.GetEtag(), Revision: m.GetRevision(), CredentialNames: m.GetCredentialNames(),
		CreateTime: timeOf(m.GetCreateTime()), Creator: m.GetCreator(), UpdateTime: timeOf(m.GetUpdateTime()), Updater: m.GetUpdater(),
		ReadOnly: m.GetReadOnly(), LastUseTime: timeOf(m.GetLastUseTime()), UsageRecording: usageRecordingOf(m.GetUsageRecording()),
		State: integrationStates[m.GetState()], Unknown: unknownIn(m),
	}
	for _, e := range m.GetEventSources() {
		in.EventSources = append(in.EventSources, eventSourceOf(e))
	}
	if m.GetSettings() != nil {
		in.Settings = m.GetSettings().AsMap()
	}
	for _, g := range m.GetGrants() {
		in.Grants = append(in.Grants, Grant{ID: g.GetId(), Principals: g.GetPrincipals(), Stores: g.GetStores(), Secrets: g.GetSecrets(), Keys: g.GetKeys()})
	}
	for _, b := range m.GetRoles() {
		for _, r := range wireRoles {
			if r.wire == b.GetRole() {
				if in.Roles == nil {
					in.Roles = make(map[Role][]string)
				}
				in.Roles[r.role] = append(in.Roles[r.role], b.GetPrincipals()...)
			}
		}
	}
	for _, f := range m.GetFacts() {
		in.Facts = append(in.Facts, Fact{f.GetId(), f.GetName(), f.GetValue()})
	}
	for _, p := range m.GetProblems() {
		in.Problems = append(in.Problems, Problem{Reason(p.GetReason()), p.GetMessage()})
	}
	return in
}

func durationOf(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}
