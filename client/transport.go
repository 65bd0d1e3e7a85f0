package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/secretbroker/secretbroker/internal/clienttls"
)

// connError is why a connection to the broker failed. grpc turns it into text,
// so its own begins with the reason for explainConnection to find.
type connError struct {
	reason, message string
}

func (e *connError) Error() string { return e.reason + ": " + e.message }

// transportCreds is mutual TLS 1.3 with the files as they are when a connection
// is made. It is immutable but for files, and safe for concurrent use.
type transportCreds struct {
	addr string
	// caFile and certFile are named in errors.
	caFile, certFile string
	files            *clienttls.Files
}

var _ credentials.TransportCredentials = (*transportCreds)(nil)

// ClientHandshake implements credentials.TransportCredentials. Each handshake
// has a tls.Config of its own and leaves every check to crypto/tls.
func (t *transportCreds) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	config, problem := t.files.TLS(&tls.Config{MinVersion: tls.VersionTLS13})
	conn, info, err := credentials.NewTLS(config).ClientHandshake(ctx, authority, raw)
	if err != nil {
		return nil, nil, t.handshakeError(err, problem)
	}
	return &firstReadConn{
		Conn:    conn,
		explain: func(err error) error { return t.firstReadError(err, problem) },
		known:   make(chan struct{}),
	}, info, nil
}

func (t *transportCreds) handshakeError(err error, problem string) error {
	var untrusted *tls.CertificateVerificationError
	if errors.As(err, &untrusted) {
		return &connError{ReasonBrokerNotTrusted, fmt.Sprintf(
			"the certificate of the broker at %s is not trusted by CA file %s: %v%s",
			t.addr, t.caFile, untrusted.Err, stillInUse(problem))}
	}
	return &connError{ReasonBrokerUnreachable, fmt.Sprintf(
		"cannot reach the broker at %s: the TLS handshake failed: %v", t.addr, err)}
}

// firstReadError explains why nothing could be read after a handshake. In TLS
// 1.3 the client is done before the server has looked at its certificate, so a
// refusal arrives here; no other alert has a reason to.
func (t *transportCreds) firstReadError(err error, problem string) error {
	var alert *net.OpError
	switch {
	case errors.As(err, &alert) && alert.Op == "remote error":
		return &connError{ReasonCertificateRefused, fmt.Sprintf(
			"the broker at %s refused the client certificate in %s: %v%s",
			t.addr, t.certFile, alert.Err, stillInUse(problem))}
	case errors.Is(err, net.ErrClosed): // by this side
		return err
	case errors.Is(err, io.EOF):
		err = errors.New("connection closed")
	}
	return &connError{ReasonBrokerUnreachable, fmt.Sprintf(
		"cannot reach the broker at %s: %v right after the TLS handshake; the broker may be stopping, or may not accept the client certificate in %s%s",
		t.addr, err, t.certFile, stillInUse(problem))}
}

// stillInUse is the part of an error's text that tells of a failed rotation.
func stillInUse(problem string) string {
	if problem == "" {
		return ""
	}
	return fmt.Sprintf(" (the files on disk cannot be used, those read earlier still are: %s)", problem)
}

// ServerHandshake implements credentials.TransportCredentials.
func (*transportCreds) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("secretbroker: these credentials are a client's")
}

// Info implements credentials.TransportCredentials.
func (*transportCreds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements credentials.TransportCredentials; there is nothing that a
// copy could change.
func (t *transportCreds) Clone() credentials.TransportCredentials { return t }

// OverrideServerName implements credentials.TransportCredentials, where it is
// deprecated.
func (*transportCreds) OverrideServerName(string) error {
	return errors.New("secretbroker: set Config.ServerName instead")
}

// refusalWait is how long a failed write waits for the alert that explains it.
// The alert was sent before the connection was closed, so it is there or lost.
const refusalWait = time.Second

// firstReadConn replaces the error of a connection on which nothing was ever
// read by one that says what that means. One goroutine reads from it, as grpc
// does.
type firstReadConn struct {
	net.Conn
	explain func(error) error

	once  sync.Once
	known chan struct{} // closed when the first Read has ended
	err   error         // why it failed, nil if it did not; set before known is closed
}

func (c *firstReadConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.once.Do(func() {
		if n == 0 && err != nil {
			c.err = c.explain(err)
		}
		close(c.known)
	})
	if c.err != nil {
		return n, c.err
	}
	return n, err
}

// Write reports why the other side closed the connection, rather than that it
// has.
func (c *firstReadConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err == nil {
		return n, nil
	}
	t := time.NewTimer(refusalWait)
	defer t.Stop()
	select {
	case <-c.known:
		if c.err != nil {
			return n, c.err
		}
	case <-t.C:
	}
	return n, err
}
