package server

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"net"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc/credentials"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/trust"
)

// peerIdentity is the AuthInfo of a connection: the identity in the peer's verified client
// certificate. The handshake determines it once.
type peerIdentity struct {
	credentials.TLSInfo
	principal authz.Principal
	serial    string // hexadecimal
	sha256    string // of the certificate, hexadecimal
	address   string // the peer's address
	notAfter  time.Time
	// problem is the reason why principal is empty.
	problem string
	// excess reports that the caller has more open connections than it may: the server
	// refuses calls on this one.
	excess bool
	// conn is the connection.
	conn *connection
}

// IdentityRules determine which certificates identify a caller. The zero value accepts any
// SPIFFE ID, or the DNS name of a certificate without one.
type IdentityRules struct {
	// TrustDomain, if set, is the only trust domain whose SPIFFE IDs are accepted.
	TrustDomain spiffeid.TrustDomain
	// SPIFFEOnly rejects DNS names as identities.
	SPIFFEOnly bool
}

// identifyingCredentials are mTLS credentials that determine the peerIdentity and track
// connections from their first byte on.
type identifyingCredentials struct {
	credentials.TransportCredentials
	trust       *trust.Store
	rules       IdentityRules
	handshakes  *handshakes
	connections *connections
	// refused is called for every failed handshake.
	refused func(peer net.Addr, err error)
}

func (c identifyingCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	greeting := c.handshakes.begin(raw)
	conn, info, err := c.TransportCredentials.ServerHandshake(greeting)
	if c.handshakes.end(greeting) {
		if err == nil {
			_ = conn.Close()
		}
		err = errDisplaced
	}
	if err != nil {
		c.refused(raw.RemoteAddr(), err)
		return nil, nil, err
	}
	known, id, err := c.know(raw, conn, info)
	if err != nil {
		c.refused(raw.RemoteAddr(), err)
		_ = conn.Close()
		return nil, nil, err
	}
	return known, id, nil
}

// know tracks a connection after a successful handshake.
func (c identifyingCredentials) know(raw, conn net.Conn, info credentials.AuthInfo) (*connection, peerIdentity, error) {
	tlsInfo, err := checkConnection(info)
	if err != nil {
		return nil, peerIdentity{}, err
	}
	id := identify(tlsInfo, c.rules)
	id.address = raw.RemoteAddr().String()
	known := &connection{Conn: conn, raw: raw, who: id.principal, serial: id.serial, peer: c.trust.Peer(tlsInfo.State.PeerCertificates)}
	id.conn = known
	id.excess, err = c.connections.add(known)
	return known, id, err
}

func (c identifyingCredentials) Clone() credentials.TransportCredentials {
	c.TransportCredentials = c.TransportCredentials.Clone()
	return c
}

// ClientHandshake is not used: these are the credentials of a server.
func (c identifyingCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errNotTLS
}

// identify determines the caller's identity from the verified chain, never from
// certificates that the peer sent but the handshake did not verify.
func identify(info credentials.TLSInfo, rules IdentityRules) peerIdentity {
	p := peerIdentity{TLSInfo: info}
	chains := info.State.VerifiedChains
	if len(chains) == 0 || len(chains[0]) == 0 {
		p.problem = "the connection has no verified client certificate"
		return p
	}
	leaf := chains[0][0]
	p.serial = leaf.SerialNumber.Text(16)
	sum := sha256.Sum256(leaf.Raw)
	p.sha256 = hex.EncodeToString(sum[:])
	p.notAfter = leaf.NotAfter
	p.principal, p.problem = principalOf(leaf, rules)
	return p
}

// principalOf returns the SPIFFE ID of the certificate, or else its DNS name. A certificate
// that could identify two callers identifies none: the broker would have to guess which of
// them the operator meant in a grant.
func principalOf(leaf *x509.Certificate, rules IdentityRules) (who authz.Principal, problem string) {
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
		return authz.SPIFFEPrincipal(id), ""
	}
	if rules.SPIFFEOnly {
		return "", "the client certificate has no SPIFFE ID"
	}
	switch len(leaf.DNSNames) {
	case 0:
		return "", "the client certificate has neither a SPIFFE ID (URI SAN) nor a DNS name (DNS SAN)"
	case 1:
		who, ok := authz.DNSPrincipal(leaf.DNSNames[0])
		if !ok {
			return "", "the client certificate's DNS name does not name one host"
		}
		return who, ""
	default:
		return "", "the client certificate has several DNS names, which makes the caller ambiguous; issue one with a SPIFFE ID or a single DNS name"
	}
}
