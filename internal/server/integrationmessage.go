package server

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/manage"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// documentOf returns the part of an integration that callers may set.
func documentOf(m *secretbrokerv1.Integration) (manage.Document, error) {
	f := manage.Document{ID: m.GetId(), DisplayName: m.GetDisplayName(), Kind: secret.Kind(m.GetKind())}
	if settings := m.GetSettings().AsMap(); len(settings) > 0 {
		if f.Kind == "" {
			return f, secret.Errorf(secret.ReasonInvalidRequest, "integration.kind: required if there are settings")
		}
		if err := f.SetSettings(settings); err != nil {
			return f, secret.Errorf(secret.ReasonInvalidIntegration, "integration.%v", err)
		}
	}
	for _, d := range []struct {
		name string
		from *durationpb.Duration
		set  func(time.Duration)
	}{
		{"cache.ttl", m.GetCache().GetTtl(), func(d time.Duration) { f.Cache.SetTTL(d) }},
		{"cache.max_stale", m.GetCache().GetMaxStale(), func(d time.Duration) { f.Cache.SetMaxStale(d) }},
		{"reads.timeout", m.GetReads().GetTimeout(), func(d time.Duration) { f.Reads.SetTimeout(d) }},
	} {
		if d.from != nil && !d.from.IsValid() {
			return f, secret.Errorf(secret.ReasonInvalidRequest, "integration.%s: not a valid duration", d.name)
		}
		d.set(d.from.AsDuration())
	}
	f.Reads.MaxConcurrent = int(m.GetReads().GetMaxConcurrent())
	f.Reads.PerSecond = int(m.GetReads().GetPerSecond())
	f.Placement.Cloud, f.Placement.Region = m.GetPlacement().GetCloud(), m.GetPlacement().GetRegion()
	for _, g := range m.GetGrants() {
		f.Grants = append(f.Grants, grantOf(g).WithoutDerivedID())
	}
	for _, binding := range m.GetRoles() {
		switch binding.GetRole() {
		case secretbrokerv1.Role_ROLE_RESOURCE_OWNER:
			f.Roles.ResourceOwner = append(f.Roles.ResourceOwner, binding.GetPrincipals()...)
		case secretbrokerv1.Role_ROLE_ASSIGNER:
			f.Roles.Assigner = append(f.Roles.Assigner, binding.GetPrincipals()...)
		case secretbrokerv1.Role_ROLE_AUDITOR:
			f.Roles.Auditor = append(f.Roles.Auditor, binding.GetPrincipals()...)
		case secretbrokerv1.Role_ROLE_ROTATOR:
			f.Roles.Rotator = append(f.Roles.Rotator, binding.GetPrincipals()...)
		default:
			return f, secret.Errorf(secret.ReasonInvalidRequest, "integration.roles: a binding has no role, or a role that this broker does not know")
		}
	}
	return f, nil
}

func grantOf(m *secretbrokerv1.Grant) manage.Grant {
	return manage.Grant{ID: m.GetId(), Principals: m.GetPrincipals(), Stores: m.GetStores(), Secrets: m.GetSecrets(), Keys: m.GetKeys()}
}

// messageOf returns the message of an integration, without its credentials.
func messageOf(in *manage.Integration) *secretbrokerv1.Integration {
	f := &in.Document
	m := &secretbrokerv1.Integration{
		Id: f.ID, Uid: in.UID, DisplayName: f.DisplayName, Kind: string(f.Kind),
		CredentialNames: in.CredentialNames, Revision: in.Revision, Etag: in.ETag,
		CreateTime: timeOf(in.CreatedAt), UpdateTime: timeOf(in.UpdatedAt), Creator: string(in.CreatedBy), Updater: string(in.UpdatedBy),
		ReadOnly: in.ReadOnly, LastUseTime: timeOf(in.LastUsedAt),
	}
	if settings := f.Settings(); len(settings) > 0 {
		m.Settings, _ = structpb.NewStruct(settings) // cannot fail for plain values
	}
	if ttl, stale := int64(f.Cache.TTL), int64(f.Cache.MaxStale); ttl|stale != 0 {
		m.Cache = &secretbrokerv1.IntegrationCache{Ttl: durationOf(ttl), MaxStale: durationOf(stale)}
	}
	if r := f.Reads; r.MaxConcurrent != 0 || r.PerSecond != 0 || r.Timeout != 0 {
		m.Reads = &secretbrokerv1.IntegrationReads{
			MaxConcurrent: int32(r.MaxConcurrent), //nolint:gosec // the registry allows 1,024
			PerSecond:     int32(r.PerSecond),     //nolint:gosec // the registry allows 100,000
			Timeout:       durationOf(int64(r.Timeout)),
		}
	}
	if p := f.Placement; p.Cloud != "" || p.Region != "" {
		m.Placement = &secretbrokerv1.Placement{Cloud: p.Cloud, Region: p.Region}
	}
	for i := range f.Grants {
		g := &f.Grants[i]
		m.Grants = append(m.Grants, &secretbrokerv1.Grant{Id: g.GrantID(), Principals: g.Principals, Stores: g.Stores, Secrets: g.Secrets, Keys: g.Keys})
	}
	bindings := f.Roles.Bindings()
	for _, r := range []struct {
		role authz.Role
		wire secretbrokerv1.Role
	}{
		{authz.ResourceOwner, secretbrokerv1.Role_ROLE_RESOURCE_OWNER},
		{authz.Assigner, secretbrokerv1.Role_ROLE_ASSIGNER},
		{authz.Auditor, secretbrokerv1.Role_ROLE_AUDITOR},
		{authz.Rotator, secretbrokerv1.Role_ROLE_ROTATOR},
	} {
		if patterns := bindings[r.role]; len(patterns) > 0 {
			m.Roles = append(m.Roles, &secretbrokerv1.RoleBinding{Role: r.wire, Principals: patterns})
		}
	}
	for _, fact := range in.Facts {
		m.Facts = append(m.Facts, &secretbrokerv1.Fact{Id: fact.ID, Name: fact.Name, Value: fact.Value})
	}
	for _, p := range in.Problems {
		m.Problems = append(m.Problems, &secretbrokerv1.Problem{Reason: string(p.Reason), Message: p.Message})
	}
	m.State, m.UsageRecording = wireStates[in.State], recordingOf(in.Recording)
	for i := range in.EventSources {
		m.EventSources = append(m.EventSources, eventSourceOf(&in.EventSources[i]))
	}
	return m
}

func recordingOf(r manage.Recording) *secretbrokerv1.UsageRecording {
	if r == (manage.Recording{}) {
		return nil
	}
	return &secretbrokerv1.UsageRecording{RecordedSince: timeOf(r.Since), GrantsRecordedSince: timeOf(r.GrantsSince), ReplicaOnly: r.ReplicaOnly}
}

var wireStates = map[manage.State]secretbrokerv1.IntegrationState{
	manage.Active:   secretbrokerv1.IntegrationState_INTEGRATION_STATE_ACTIVE,
	manage.Degraded: secretbrokerv1.IntegrationState_INTEGRATION_STATE_DEGRADED,
	manage.Inactive: secretbrokerv1.IntegrationState_INTEGRATION_STATE_INACTIVE,
}

// timeOf returns the timestamp of t, nil for the zero time.
func timeOf(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

var wireEventStates = map[manage.EventState]secretbrokerv1.EventSource_State{
	manage.EventsStarting: secretbrokerv1.EventSource_STATE_STARTING,
	manage.EventsWorking:  secretbrokerv1.EventSource_STATE_WORKING,
	manage.EventsFailing:  secretbrokerv1.EventSource_STATE_FAILING,
	manage.EventsSilent:   secretbrokerv1.EventSource_STATE_SILENT,
}

func eventSourceOf(s *manage.EventSource) *secretbrokerv1.EventSource {
	m := &secretbrokerv1.EventSource{
		Name: s.Name, OperatorSourceId: s.OperatorID, State: wireEventStates[s.State], Problem: s.Problem, ProblemTime: timeOf(s.ProblemSince),
		LastPollTime: timeOf(s.PolledAt), LastEventTime: timeOf(s.EventAt),
		MissedCount: int64(s.Missed), LastMissedTime: timeOf(s.MissedAt), Replica: s.Replica, //nolint:gosec // a count
	}
	if s.Delivery > 0 {
		m.LastDeliveryDelay = durationpb.New(s.Delivery)
	}
	for outcome, n := range s.Counts {
		if m.EventCounts == nil {
			m.EventCounts = make(map[string]int64)
		}
		m.EventCounts[outcome] = int64(n) //nolint:gosec // a count
	}
	return m
}
