package server

import (
	"context"
	"log/slog"
	"math"

	"google.golang.org/protobuf/types/known/timestamppb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/manage"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// policyService translates between the wire format and the use case.
type policyService struct {
	secretbrokerv1.UnimplementedPolicyServiceServer
	manager Manager
	log     *slog.Logger
	version string
}

func (s *policyService) Explain(ctx context.Context, req *secretbrokerv1.ExplainRequest) (*secretbrokerv1.ExplainResponse, error) {
	c := callOf(ctx)
	answer, err := s.manager.Explain(ctx, managerOf(c), manage.Question{
		Reference:     req.GetReference(),
		IntegrationID: req.GetIntegrationId(),
		Principal:     req.GetPrincipal(),
		PageSize:      int(req.GetPageSize()),
		PageToken:     req.GetPageToken(),
	})
	if err != nil {
		if e := secret.AsError(err); e.Cause != nil {
			s.log.ErrorContext(ctx, "a policy question failed", "request_id", c.requestID, "reason", string(e.Reason), "cause", e.Cause)
		}
		return nil, statusOf(err, c.requestID).Err()
	}
	out := &secretbrokerv1.ExplainResponse{Reference: answer.Reference, RequestId: c.requestID, NextPageToken: answer.Next}
	for _, a := range answer.Readers {
		out.Readers = append(out.Readers, &secretbrokerv1.Access{IntegrationId: a.IntegrationID, GrantId: a.GrantID, Principal: a.Principal})
	}
	for _, j := range answer.Decisions {
		out.Decisions = append(out.Decisions, decisionOf(j))
	}
	return out, nil
}

func (s *policyService) WhoAmI(ctx context.Context, _ *secretbrokerv1.WhoAmIRequest) (*secretbrokerv1.WhoAmIResponse, error) {
	c := callOf(ctx)
	var id peerIdentity
	if _, err := identityOf(ctx, &id); err != nil {
		return nil, statusOf(err, c.requestID).Err()
	}
	self, err := s.manager.WhoAmI(managerOf(c))
	if err != nil {
		return nil, statusOf(err, c.requestID).Err()
	}
	out := &secretbrokerv1.WhoAmIResponse{
		Principal: string(id.principal), Problem: id.problem, UsableIntegrationCount: clampInt32(self.Usable),
		Certificate:   &secretbrokerv1.ClientCertificate{Sha256: id.certificate.SHA256, Serial: id.certificate.Serial, Issuer: id.certificate.Issuer, ExpireTime: timeOf(id.notAfter)},
		BrokerVersion: s.version, BrokerTime: timestamppb.Now(), RequestId: c.requestID,
	}
	for _, r := range self.Roles {
		out.Roles = append(out.Roles, &secretbrokerv1.RoleHeld{Role: roleOf[r.Role], AllIntegrations: r.All, IntegrationCount: clampInt32(r.Integrations)})
	}
	return out, nil
}

var roleOf = map[authz.Role]secretbrokerv1.Role{
	authz.ResourceOwner: secretbrokerv1.Role_ROLE_RESOURCE_OWNER,
	authz.Assigner:      secretbrokerv1.Role_ROLE_ASSIGNER,
	authz.Auditor:       secretbrokerv1.Role_ROLE_AUDITOR,
}

func clampInt32(n int) int32 { return int32(min(n, math.MaxInt32)) } //nolint:gosec // counts are not negative

func decisionOf(j manage.Decision) *secretbrokerv1.Decision {
	out := &secretbrokerv1.Decision{
		IntegrationId: j.IntegrationID,
		Allowed:       j.Allowed,
		GrantId:       j.GrantID,
		Explanation:   j.Explanation,
	}
	for _, m := range j.Grants {
		out.Grants = append(out.Grants, &secretbrokerv1.GrantMatch{
			GrantId:          m.GrantID,
			PrincipalMatches: m.Principal != "",
			StoreMatches:     m.Store,
			SecretMatches:    m.Secret,
			KeyMatches:       m.Key,
		})
	}
	return out
}
