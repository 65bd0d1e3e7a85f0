package server

import (
	"context"
	"log/slog"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/denial"
	"github.com/secretbroker/secretbroker/internal/manage"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// denialService translates between the wire format and the use case.
type denialService struct {
	secretbrokerv1.UnimplementedDenialServiceServer
	manager Manager
	log     *slog.Logger
}

// failed returns the status of a failed call and logs its cause.
func (s *denialService) failed(ctx context.Context, c *call, err error) error {
	if e := secret.AsError(err); e.Cause != nil {
		s.log.ErrorContext(ctx, "a call of the deny list failed", "request_id", c.requestID, "reason", string(e.Reason), "cause", e.Cause)
	}
	return statusOf(err, c.requestID).Err()
}

// denierOf is managerOf with everything by which the caller could deny itself.
func denierOf(ctx context.Context, c *call) manage.Caller {
	who := managerOf(c)
	var id peerIdentity
	if _, err := identityOf(ctx, &id); err == nil {
		who.CertificateIssuer = id.certificate.Issuer
	}
	return who
}

func (s *denialService) CreateDenial(ctx context.Context, req *secretbrokerv1.CreateDenialRequest) (*secretbrokerv1.CreateDenialResponse, error) {
	c := callOf(ctx)
	m := req.GetDenial()
	e := denial.Entry{Subject: subjectOf(m.GetSubject()), Reason: m.GetReason()}
	if t := m.GetExpireTime(); t != nil {
		if t.CheckValid() != nil {
			return nil, s.failed(ctx, c, s.manager.Reject(ctx, managerOf(c), "CreateDenial", "", secret.Errorf(secret.ReasonInvalidRequest, "denial.expire_time: not a valid time")))
		}
		e.ExpiresAt = t.AsTime()
	}
	e, err := s.manager.Deny(ctx, denierOf(ctx, c), e, manage.WriteOptions{ValidateOnly: req.GetValidateOnly(), Force: req.GetForce()})
	if err != nil {
		return nil, s.failed(ctx, c, err)
	}
	return &secretbrokerv1.CreateDenialResponse{Denial: denialOf(&e), RequestId: c.requestID}, nil
}

func (s *denialService) ListDenials(ctx context.Context, req *secretbrokerv1.ListDenialsRequest) (*secretbrokerv1.ListDenialsResponse, error) {
	c := callOf(ctx)
	entries, next, err := s.manager.Denials(ctx, managerOf(c), int(req.GetPageSize()), req.GetPageToken())
	if err != nil {
		return nil, s.failed(ctx, c, err)
	}
	out := &secretbrokerv1.ListDenialsResponse{NextPageToken: next, RequestId: c.requestID}
	for i := range entries {
		out.Denials = append(out.Denials, denialOf(&entries[i]))
	}
	return out, nil
}

func (s *denialService) DeleteDenial(ctx context.Context, req *secretbrokerv1.DeleteDenialRequest) (*secretbrokerv1.DeleteDenialResponse, error) {
	c := callOf(ctx)
	if err := s.manager.Undeny(ctx, managerOf(c), subjectOf(req.GetSubject()), manage.WriteOptions{ValidateOnly: req.GetValidateOnly()}); err != nil {
		return nil, s.failed(ctx, c, err)
	}
	return &secretbrokerv1.DeleteDenialResponse{RequestId: c.requestID}, nil
}

func subjectOf(m *secretbrokerv1.DenialSubject) denial.Subject {
	return denial.Subject{Principal: authz.Principal(m.GetPrincipal()), SHA256: m.GetCertificateSha256(), Serial: m.GetCertificateSerial(), Issuer: m.GetCertificateIssuer()}
}

func denialOf(e *denial.Entry) *secretbrokerv1.Denial {
	return &secretbrokerv1.Denial{
		Subject:    &secretbrokerv1.DenialSubject{Principal: string(e.Principal), CertificateSha256: e.SHA256, CertificateSerial: e.Serial, CertificateIssuer: e.Issuer},
		Reason:     e.Reason,
		ExpireTime: timeOf(e.ExpiresAt), CreateTime: timeOf(e.CreatedAt), CreatedBy: string(e.CreatedBy), ReadOnly: e.InFile,
	}
}
