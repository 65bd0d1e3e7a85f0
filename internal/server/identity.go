package server

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/denial"
	"github.com/secretbroker/secretbroker/internal/trust"
)

// peerIdentity is the AuthInfo of a connection: the identity in the peer's verified client
// certificate. The handshake determines it once.
type peerIdentity struct {
	credentials.TLSInfo
	principal authz.Principal
	// certificate is the verified certificate, the zero value if there is none.
	certificate denial.Certificate
	address     string // the peer's address
	notAfter    time.Time
	// problem is the reason why principal is empty.
	problem string
	// denied reports that the deny list had the certificate during the handshake. The
	// connection then counts as one of a peer without an identity, so that it uses nothing
	// of what the principal may use with another certificate.
	denied bool
	// excess reports that the caller has more open connections than it may: the server
	// refuses calls on this one.
	excess bool
	// conn is the connection.
	conn *connection
}

// IdentityRules determine which certificates identify a caller.
type IdentityRules = authz.IdentityRules

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
	known := &connection{
		Conn: conn, raw: raw, certificate: id.certificate, peer: c.trust.Peer(tlsInfo.State.PeerCertificates), denials: c.connections.denials, begun: time.Now(),
	}
	if entry := known.deniedBy(known.begun); entry != nil {
		c.connections.tellDenied(true, known, entry)
		id.denied, id.principal, known.denied = true, "", c.connections.denials.Current()
	}
	known.who = id.principal
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
	p.notAfter = leaf.NotAfter
	p.principal, p.problem = authz.PrincipalOf(leaf, rules)
	p.certificate = denial.CertificateOf(leaf, p.principal)
	return p
}
