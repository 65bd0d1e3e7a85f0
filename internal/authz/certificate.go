package authz

import (
	"crypto/x509"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// IdentityRules determine which certificates identify a caller. The zero value accepts any
// SPIFFE ID, or the DNS name of a certificate without one.
type IdentityRules struct {
	// TrustDomain, if set, is the only trust domain whose SPIFFE IDs are accepted.
	TrustDomain spiffeid.TrustDomain
	// SPIFFEOnly rejects DNS names as identities.
	SPIFFEOnly bool
}

// PrincipalOf returns the SPIFFE ID of the certificate, or else its DNS name. A certificate
// that could identify two callers identifies none: the broker would have to guess which of
// them the operator meant in a grant.
func PrincipalOf(leaf *x509.Certificate, rules IdentityRules) (who Principal, problem string) {
	// X509-SVID section 4: a leaf must not be able to sign others.
	if leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return "", "the client certificate is a CA certificate; issue a leaf certificate"
	}
	for _, uri := range leaf.URIs {
		if uri.Scheme != "spiffe" {
			continue
		}
		// X509-SVID section 2: exactly one URI SAN, a valid SPIFFE ID with a path.
		id, err := x509svid.IDFromCert(leaf)
		if err != nil {
			return "", "the client certificate's SPIFFE ID is invalid: " + err.Error()
		}
		if id.Path() == "" {
			return "", "the client certificate's SPIFFE ID names a trust domain but no workload"
		}
		if !rules.TrustDomain.IsZero() && !id.MemberOf(rules.TrustDomain) {
			return "", "the client certificate's SPIFFE ID belongs to another trust domain than the broker's"
		}
		return SPIFFEPrincipal(id), ""
	}
	if rules.SPIFFEOnly {
		return "", "the client certificate has no SPIFFE ID"
	}
	switch len(leaf.DNSNames) {
	case 0:
		return "", "the client certificate has neither a SPIFFE ID (URI SAN) nor a DNS name (DNS SAN)"
	case 1:
		who, ok := DNSPrincipal(leaf.DNSNames[0])
		if !ok {
			return "", "the client certificate's DNS name does not name one host"
		}
		return who, ""
	default:
		return "", "the client certificate has several DNS names, which makes the caller ambiguous; issue one with a SPIFFE ID or a single DNS name"
	}
}
