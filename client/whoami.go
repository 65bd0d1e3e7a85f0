package client

import (
	"context"
	"strings"
	"time"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// WhoAmIRequest asks how the broker sees this client.
type WhoAmIRequest struct{}

// WhoAmIResponse is how the broker sees this client.
type WhoAmIResponse struct {
	// Principal is compared with grants and roles; empty if the certificate identifies
	// none. Problem then says why.
	Principal, Problem string
	// Certificate is the client certificate of the connection.
	Certificate CertificateInfo
	// Roles are the client's roles, the strongest first.
	Roles []RoleHeld
	// UsableIntegrations is the number of integrations with a grant for the client.
	UsableIntegrations int
	// BrokerVersion and BrokerTime are of the broker that answered.
	BrokerVersion string
	BrokerTime    time.Time
	RequestID     string
}

// CertificateInfo identifies a certificate.
type CertificateInfo struct {
	// SHA256 is the fingerprint, and Serial the serial number, in hexadecimal.
	SHA256, Serial string
	// Issuer is a name such as "CN=clients,O=Example".
	Issuer     string
	ExpireTime time.Time
}

// RoleHeld is a role of a client.
type RoleHeld struct {
	// Role is RESOURCE_OWNER, ASSIGNER or AUDITOR.
	Role string
	// AllIntegrations reports that the role is for all integrations. Otherwise
	// IntegrationCount is the number of those for which the client has it.
	AllIntegrations  bool
	IntegrationCount int
}

// WhoAmI asks the broker how it sees this client. It needs no role and no grant.
func (c *Client) WhoAmI(ctx context.Context, _ WhoAmIRequest) (*WhoAmIResponse, error) {
	m, err := call(ctx, c, secretbrokerv1.NewPolicyServiceClient(c.conn).WhoAmI, &secretbrokerv1.WhoAmIRequest{})
	if err != nil {
		return nil, err
	}
	cert := m.GetCertificate()
	out := &WhoAmIResponse{
		Principal: m.GetPrincipal(), Problem: m.GetProblem(), UsableIntegrations: int(m.GetUsableIntegrationCount()),
		Certificate:   CertificateInfo{SHA256: cert.GetSha256(), Serial: cert.GetSerial(), Issuer: cert.GetIssuer(), ExpireTime: cert.GetExpireTime().AsTime()},
		BrokerVersion: m.GetBrokerVersion(), BrokerTime: m.GetBrokerTime().AsTime(), RequestID: m.GetRequestId(),
	}
	for _, r := range m.GetRoles() {
		out.Roles = append(out.Roles, RoleHeld{Role: strings.TrimPrefix(r.GetRole().String(), "ROLE_"), AllIntegrations: r.GetAllIntegrations(), IntegrationCount: int(r.GetIntegrationCount())})
	}
	return out, nil
}
