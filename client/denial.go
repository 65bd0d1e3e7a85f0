package client

import (
	"context"
	"iter"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// DenialSubject is what is denied: exactly one of Principal, CertificateSHA256, and
// CertificateSerial with CertificateIssuer.
type DenialSubject struct {
	// Principal is a principal, such as "spiffe://example.org/connect/worker-1".
	Principal string
	// CertificateSHA256 is the fingerprint of a certificate, in hexadecimal.
	CertificateSHA256 string
	// CertificateSerial is in hexadecimal, CertificateIssuer a name such as
	// "CN=clients,O=Example".
	CertificateSerial, CertificateIssuer string
}

func (s DenialSubject) message() *secretbrokerv1.DenialSubject {
	return &secretbrokerv1.DenialSubject{
		Principal: s.Principal, CertificateSha256: s.CertificateSHA256, CertificateSerial: s.CertificateSerial, CertificateIssuer: s.CertificateIssuer,
	}
}

// Denial is one entry of the broker's deny list.
type Denial struct {
	Subject DenialSubject
	// Reason is a text for people, at most 500 bytes on one line.
	Reason string
	// ExpireTime is when the denial ends; zero means never.
	ExpireTime time.Time
	// CreateTime and CreatedBy are set by the broker; zero for denials in its file.
	CreateTime time.Time
	CreatedBy  string
	// ReadOnly reports that the denial is in the broker's file.
	ReadOnly bool
}

// CreateDenialRequest denies a certificate or a principal.
type CreateDenialRequest struct {
	Denial Denial
	// ValidateOnly checks the request and changes nothing.
	ValidateOnly bool
	// Force allows the caller to deny itself.
	Force bool
}

// CreateDenialResponse has the denial as stored.
type CreateDenialResponse struct {
	Denial    Denial
	RequestID string
}

// ListDenialsRequest asks for the deny list.
type ListDenialsRequest struct {
	// PageSize is the number of denials to request at a time; zero means 500, which is also
	// the maximum.
	PageSize int
}

// DeleteDenialRequest ends a denial.
type DeleteDenialRequest struct {
	Subject      DenialSubject
	ValidateOnly bool
}

// DeleteDenialResponse is the answer to a DeleteDenialRequest.
type DeleteDenialResponse struct{ RequestID string }

func (c *Client) denials() secretbrokerv1.DenialServiceClient {
	return secretbrokerv1.NewDenialServiceClient(c.conn)
}

// CreateDenial denies a certificate or a principal on all replicas. It takes the role
// RESOURCE_OWNER for all integrations. If the subject is denied already, the reason is
// replaced, and the denial ends at the later of both times.
func (c *Client) CreateDenial(ctx context.Context, req CreateDenialRequest) (*CreateDenialResponse, error) {
	m := &secretbrokerv1.Denial{Subject: req.Denial.Subject.message(), Reason: req.Denial.Reason}
	if !req.Denial.ExpireTime.IsZero() {
		m.ExpireTime = timestamppb.New(req.Denial.ExpireTime)
	}
	out, err := callChange(ctx, c, c.denials().CreateDenial, &secretbrokerv1.CreateDenialRequest{Denial: m, ValidateOnly: req.ValidateOnly, Force: req.Force})
	if err != nil {
		return nil, err
	}
	return &CreateDenialResponse{Denial: newDenial(out.GetDenial()), RequestID: out.GetRequestId()}, nil
}

// ListDenials returns the deny list, sorted by subject. It requests a page when the iteration
// reaches it, each within Config.Timeout. An error ends the iteration.
func (c *Client) ListDenials(ctx context.Context, req ListDenialsRequest) iter.Seq2[Denial, error] {
	pages := pages(ctx, c, c.denials().ListDenials, func(token string) *secretbrokerv1.ListDenialsRequest {
		return &secretbrokerv1.ListDenialsRequest{PageSize: pageSizeOf(req.PageSize), PageToken: token}
	})
	return func(yield func(Denial, error) bool) {
		for page, err := range pages {
			if err != nil {
				yield(Denial{}, err)
				return
			}
			for _, m := range page.GetDenials() {
				if !yield(newDenial(m), nil) {
					return
				}
			}
		}
	}
}

// DeleteDenial ends a denial on all replicas. It takes the role RESOURCE_OWNER for all
// integrations.
func (c *Client) DeleteDenial(ctx context.Context, req DeleteDenialRequest) (*DeleteDenialResponse, error) {
	out, err := callChange(ctx, c, c.denials().DeleteDenial, &secretbrokerv1.DeleteDenialRequest{Subject: req.Subject.message(), ValidateOnly: req.ValidateOnly})
	if err != nil {
		return nil, err
	}
	return &DeleteDenialResponse{RequestID: out.GetRequestId()}, nil
}

func newDenial(m *secretbrokerv1.Denial) Denial {
	s := m.GetSubject()
	d := Denial{
		Subject: DenialSubject{Principal: s.GetPrincipal(), CertificateSHA256: s.GetCertificateSha256(), CertificateSerial: s.GetCertificateSerial(), CertificateIssuer: s.GetCertificateIssuer()},
		Reason:  m.GetReason(), CreatedBy: m.GetCreatedBy(), ReadOnly: m.GetReadOnly(),
	}
	if t := m.GetExpireTime(); t != nil {
		d.ExpireTime = t.AsTime()
	}
	if t := m.GetCreateTime(); t != nil {
		d.CreateTime = t.AsTime()
	}
	return d
}
