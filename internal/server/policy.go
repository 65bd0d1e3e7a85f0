package server

import (
	"context"
	"log/slog"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/manage"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// policyService translates between the wire format and the use case.
type policyService struct {
	secretbrokerv1.UnimplementedPolicyServiceServer
	manager Manager
	log     *slog.Logger
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
