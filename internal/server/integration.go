package server

import (
	"context"
	"log/slog"

	"google.golang.org/protobuf/types/known/durationpb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/denial"
	"github.com/secretbroker/secretbroker/internal/manage"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Manager is the use case behind IntegrationService, PolicyService and DenialService; manage.Service is one.
type Manager interface {
	Create(ctx context.Context, who manage.Caller, doc manage.Document, credentials map[string]secret.Value, o manage.WriteOptions) (manage.Integration, error)
	Get(ctx context.Context, who manage.Caller, id string) (manage.Integration, error)
	List(ctx context.Context, who manage.Caller, o manage.ListOptions) (all []manage.Integration, next string, err error)
	Update(ctx context.Context, who manage.Caller, wanted manage.Document, mask []string, credentials map[string]secret.Value, o manage.WriteOptions) (in manage.Integration, changed []string, err error)
	Delete(ctx context.Context, who manage.Caller, id string, o manage.WriteOptions) error
	Validate(ctx context.Context, who manage.Caller, id string) ([]manage.Step, error)
	Grant(ctx context.Context, who manage.Caller, id string, g manage.Grant, o manage.WriteOptions) (manage.Integration, error)
	Revoke(ctx context.Context, who manage.Caller, id string, g manage.Grant, o manage.WriteOptions) (manage.Integration, error)
	Usage(ctx context.Context, who manage.Caller, q manage.UsageQuery) (manage.UsagePage, error)
	Explain(ctx context.Context, who manage.Caller, q manage.Question) (manage.Answer, error)
	WhoAmI(who manage.Caller) (manage.Self, error)
	Deny(ctx context.Context, who manage.Caller, e denial.Entry, o manage.WriteOptions) (denial.Entry, error)
	Undeny(ctx context.Context, who manage.Caller, s denial.Subject, o manage.WriteOptions) error
	Denials(ctx context.Context, who manage.Caller, size int, token string) (entries []denial.Entry, next string, err error)
	// Reject records a call whose message is invalid, and returns err.
	Reject(ctx context.Context, who manage.Caller, method, id string, err error) error
}

// integrationService translates between the wire format and the use case. The use case
// decides who may do what.
type integrationService struct {
	secretbrokerv1.UnimplementedIntegrationServiceServer
	manager Manager
	log     *slog.Logger
}

// failed returns the status of a failed call. It logs the cause of the failure, which the
// caller does not get.
func (s *integrationService) failed(ctx context.Context, c *call, err error) error {
	if e := secret.AsError(err); e.Cause != nil {
		s.log.ErrorContext(ctx, "a call that manages integrations failed", "request_id", c.requestID, "reason", string(e.Reason), "cause", e.Cause)
	}
	return statusOf(err, c.requestID).Err()
}

func managerOf(c *call) manage.Caller {
	return manage.Caller{RequestID: c.requestID, Principal: c.who.Principal, PeerAddress: c.who.PeerAddress, CertificateSHA256: c.who.CertificateSHA256, CertificateSerial: c.who.CertificateSerial}
}

func (s *integrationService) CreateIntegration(ctx context.Context, req *secretbrokerv1.CreateIntegrationRequest) (*secretbrokerv1.CreateIntegrationResponse, error) {
	c := callOf(ctx)
	doc, err := documentOf(req.GetIntegration())
	if err != nil {
		return nil, s.failed(ctx, c, s.manager.Reject(ctx, managerOf(c), "CreateIntegration", doc.ID, err))
	}
	in, err := s.manager.Create(ctx, managerOf(c), doc, credentialsOf(req.GetIntegration()), manage.WriteOptions{ValidateOnly: req.GetValidateOnly()})
	if err != nil {
		return nil, s.failed(ctx, c, err)
	}
	return &secretbrokerv1.CreateIntegrationResponse{Integration: messageOf(&in), RequestId: c.requestID}, nil
}

func (s *integrationService) GetIntegration(ctx context.Context, req *secretbrokerv1.GetIntegrationRequest) (*secretbrokerv1.GetIntegrationResponse, error) {
	c := callOf(ctx)
	in, err := s.manager.Get(ctx, managerOf(c), req.GetIntegrationId())
	if err != nil {
		return nil, s.failed(ctx, c, err)
	}
	return &secretbrokerv1.GetIntegrationResponse{Integration: messageOf(&in), RequestId: c.requestID}, nil
}

func (s *integrationService) ListIntegrations(ctx context.Context, req *secretbrokerv1.ListIntegrationsRequest) (*secretbrokerv1.ListIntegrationsResponse, error) {
	c := callOf(ctx)
	all, next, err := s.manager.List(ctx, managerOf(c), manage.ListOptions{
		PageSize: int(req.GetPageSize()), PageToken: req.GetPageToken(), Filter: req.GetFilter(),
	})
	if err != nil {
		return nil, s.failed(ctx, c, err)
	}
	out := &secretbrokerv1.ListIntegrationsResponse{NextPageToken: next, RequestId: c.requestID}
	for i := range all {
		out.Integrations = append(out.Integrations, messageOf(&all[i]))
	}
	return out, nil
}

func (s *integrationService) UpdateIntegration(ctx context.Context, req *secretbrokerv1.UpdateIntegrationRequest) (*secretbrokerv1.UpdateIntegrationResponse, error) {
	c := callOf(ctx)
	doc, err := documentOf(req.GetIntegration())
	if err != nil {
		return nil, s.failed(ctx, c, s.manager.Reject(ctx, managerOf(c), "UpdateIntegration", doc.ID, err))
	}
	in, changed, err := s.manager.Update(ctx, managerOf(c), doc, req.GetUpdateMask().GetPaths(), credentialsOf(req.GetIntegration()), manage.WriteOptions{
		ETag: req.GetIntegration().GetEtag(), ValidateOnly: req.GetValidateOnly(), Force: req.GetForce(),
	})
	if err != nil {
		return nil, s.failed(ctx, c, err)
	}
	return &secretbrokerv1.UpdateIntegrationResponse{Integration: messageOf(&in), ChangedFields: changed, RequestId: c.requestID}, nil
}

func (s *integrationService) DeleteIntegration(ctx context.Context, req *secretbrokerv1.DeleteIntegrationRequest) (*secretbrokerv1.DeleteIntegrationResponse, error) {
	c := callOf(ctx)
	err := s.manager.Delete(ctx, managerOf(c), req.GetIntegrationId(), manage.WriteOptions{
		ETag: req.GetEtag(), ValidateOnly: req.GetValidateOnly(), Force: req.GetForce(),
	})
	if err != nil {
		return nil, s.failed(ctx, c, err)
	}
	return &secretbrokerv1.DeleteIntegrationResponse{RequestId: c.requestID}, nil
}

func (s *integrationService) ValidateIntegration(ctx context.Context, req *secretbrokerv1.ValidateIntegrationRequest) (*secretbrokerv1.ValidateIntegrationResponse, error) {
	c := callOf(ctx)
	steps, err := s.manager.Validate(ctx, managerOf(c), req.GetIntegrationId())
	if err != nil {
		return nil, s.failed(ctx, c, err)
	}
	out := &secretbrokerv1.ValidateIntegrationResponse{Ok: true, RequestId: c.requestID}
	for _, step := range steps {
		failed := step.Err != nil || step.Skipped
		m := &secretbrokerv1.ValidationStep{Step: string(step.Step), Store: step.Store, State: secretbrokerv1.ValidationStep_STATE_OK, Message: step.Found}
		switch {
		case step.Err != nil:
			e := secret.AsError(step.Err)
			m.State, m.Reason, m.Message = secretbrokerv1.ValidationStep_STATE_FAILED, string(e.Reason), e.Message
		case step.Skipped:
			m.State = secretbrokerv1.ValidationStep_STATE_SKIPPED
		case step.Unchecked:
			m.State = secretbrokerv1.ValidationStep_STATE_UNCHECKED
		}
		out.Ok = out.Ok && !failed
		out.Steps = append(out.Steps, m)
	}
	return out, nil
}

func (s *integrationService) GrantUse(ctx context.Context, req *secretbrokerv1.GrantUseRequest) (*secretbrokerv1.GrantUseResponse, error) {
	c := callOf(ctx)
	in, err := s.manager.Grant(ctx, managerOf(c), req.GetIntegrationId(), grantOf(req.GetGrant()), manage.WriteOptions{
		ETag: req.GetEtag(), ValidateOnly: req.GetValidateOnly(),
	})
	if err != nil {
		return nil, s.failed(ctx, c, err)
	}
	return &secretbrokerv1.GrantUseResponse{Integration: messageOf(&in), RequestId: c.requestID}, nil
}

func (s *integrationService) RevokeUse(ctx context.Context, req *secretbrokerv1.RevokeUseRequest) (*secretbrokerv1.RevokeUseResponse, error) {
	c := callOf(ctx)
	in, err := s.manager.Revoke(ctx, managerOf(c), req.GetIntegrationId(), grantOf(req.GetGrant()), manage.WriteOptions{
		ETag: req.GetEtag(), ValidateOnly: req.GetValidateOnly(),
	})
	if err != nil {
		return nil, s.failed(ctx, c, err)
	}
	return &secretbrokerv1.RevokeUseResponse{Integration: messageOf(&in), RequestId: c.requestID}, nil
}

func (s *integrationService) ListUsage(ctx context.Context, req *secretbrokerv1.ListUsageRequest) (*secretbrokerv1.ListUsageResponse, error) {
	c := callOf(ctx)
	page, err := s.manager.Usage(ctx, managerOf(c), manage.UsageQuery{
		IntegrationID: req.GetIntegrationId(), Filter: req.GetFilter(), PageSize: int(req.GetPageSize()), PageToken: req.GetPageToken(),
	})
	if err != nil {
		return nil, s.failed(ctx, c, err)
	}
	out := &secretbrokerv1.ListUsageResponse{UnusedGrantIds: page.UnusedGrantIDs, NextPageToken: page.Next, Recording: recordingOf(page.Recording), RequestId: c.requestID}
	for i := range page.Usage {
		out.Usage = append(out.Usage, usageMessage(&page.Usage[i]))
	}
	return out, nil
}

var wireVersionStates = map[manage.VersionState]secretbrokerv1.VersionState{
	manage.VersionUnknown:  secretbrokerv1.VersionState_VERSION_STATE_UNKNOWN,
	manage.VersionCurrent:  secretbrokerv1.VersionState_VERSION_STATE_CURRENT,
	manage.VersionOutdated: secretbrokerv1.VersionState_VERSION_STATE_OUTDATED,
}

var wireAttributions = map[manage.Attribution]secretbrokerv1.UsageAttribution{
	manage.ByConnector: secretbrokerv1.UsageAttribution_USAGE_ATTRIBUTION_CONNECTOR,
	manage.ByPrincipal: secretbrokerv1.UsageAttribution_USAGE_ATTRIBUTION_PRINCIPAL,
}

func usageMessage(u *manage.UsageEntry) *secretbrokerv1.Usage {
	m := &secretbrokerv1.Usage{
		Principal: string(u.Principal), Connector: u.Connector, Store: u.Store, Secret: u.Secret, JsonKey: u.Key, Version: u.Version,
		FirstUseTime: timeOf(u.FirstAt), LastUseTime: timeOf(u.LastAt), GrantId: u.GrantID, IntegrationId: u.Integration,
		CurrentVersion: u.CurrentVersion, State: wireVersionStates[u.State], Attribution: wireAttributions[u.Attribution],
	}
	for _, v := range u.Versions {
		m.Versions = append(m.Versions, &secretbrokerv1.VersionUse{
			Version: v.Version, FirstUseTime: timeOf(v.FirstAt), LastUseTime: timeOf(v.LastAt), RequestId: v.RequestID, AuditSequence: int64(v.Sequence), //nolint:gosec // no log has so many records
			Replica: v.Replica,
		})
	}
	return m
}

// credentialsOf returns the credentials in a message. The use case wipes them.
func credentialsOf(m *secretbrokerv1.Integration) map[string]secret.Value {
	if len(m.GetCredentials()) == 0 {
		return nil
	}
	out := make(map[string]secret.Value, len(m.GetCredentials()))
	for name, content := range m.GetCredentials() {
		out[name] = secret.NewValue(content)
	}
	m.Credentials = nil
	return out
}

func durationOf(d int64) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return &durationpb.Duration{Seconds: d / 1e9, Nanos: int32(d % 1e9)}
}
