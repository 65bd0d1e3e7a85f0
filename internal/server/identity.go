package server

import (
	"context"
	"crypto/x509"
	"net"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc/credentials"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/trust"
)

// peerIdentity is the AuthInfo of a connection: who the verified client
// certificate says the peer is. It is worked out once, in the handshake.
type peerIdentity struct {
	credentials.TLSInfo
	principal authz.Principal
	serial    string // hexadecimal
	address   string // where the peer connects from
	notAfter  time.Time
	// problem says why principal is empty.
	problem string
	// excess says that the caller has more connections open than it may: calls on
	// this one are refused.
	excess bool
	// conn is the connection.
	conn *connection
}

// IdentityRules say which certificates name a caller. The zero value takes any
// SPIFFE ID, or a DNS name where there is none.
type IdentityRules struct {
	// TrustDomain, if set, is the only one whose SPIFFE IDs are callers.
	TrustDomain spiffeid.TrustDomain
	// SPIFFEOnly takes DNS names for no caller.
	SPIFFEOnly bool
}

// identifyingCredentials are mTLS credentials that leave a peerIdentity behind
// and keep account of connections, from their first byte on.
type identifyingCredentials struct {
	credentials.TransportCredentials
	trust       *trust.Store
	rules       IdentityRules
	handshakes  *handshakes
	connections *connections
	// refused is told of every handshake that failed.
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

// know takes a connection whose handshake has succeeded.
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

// ClientHandshake is not used: these credentials are a server's.
func (c identifyingCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errNotTLS
}

// identify reads the caller's identity from the verified chain, never from the
// certificates that the peer merely presented.
func identify(info credentials.TLSInfo, rules IdentityRules) peerIdentity {
	p := peerIdentity{TLSInfo: info}
	chains := info.State.VerifiedChains
	if len(chains) == 0 || len(chains[0]) == 0 {
		p.problem = "the connection has no verified client certificate"
		return p
	}
	leaf := chains[0][0]
	p.serial = leaf.SerialNumber.Text(16)
	p.notAfter = leaf.NotAfter
	p.principal, p.problem = principalOf(leaf, rules)
	return p
}

// principalOf returns the SPIFFE ID of the certificate, or else its DNS name.
// A certificate that could mean two callers means none: which of them the
// operator had granted something would be a guess.
func principalOf(leaf *x509.Certificate, rules IdentityRules) (who authz.Principal, problem string) {
	// X509-SVID section 4: a leaf must not be able to sign others.
	if leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return "", "the client certificate is an authority's own; issue one that can sign nothing"
	}
	for _, uri := range leaf.URIs {
		if uri.Scheme != "spiffe" {
			continue
		}
		// X509-SVID section 2: exactly one URI SAN, a valid SPIFFE ID with a path.
		id, err := x509svid.IDFromCert(leaf)
		if err != nil {
			return "", "the client certificate's SPIFFE ID is not usable: " + err.Error()
		}
		if id.Path() == "" {
			return "", "the client certificate's SPIFFE ID names a trust domain and no workload"
		}
		if !rules.TrustDomain.IsZero() && !id.MemberOf(rules.TrustDomain) {
			return "", "the client certificate's SPIFFE ID is of another trust domain than the broker's"
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
		return "", "the client certificate has several DNS names, so that it is unclear which caller it stands for; issue one with a SPIFFE ID or a single DNS name"
	}
}
