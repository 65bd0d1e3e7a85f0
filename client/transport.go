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

// connError is the reason why a connection to the broker failed. grpc converts it to text, so
// the text begins with the reason, which explainConnection extracts.
type connError struct {
	reason  Reason
	message string
}

func (e *connError) Error() string { return string(e.reason) + ": " + e.message }

// transportCreds implements mutual TLS 1.3 with the current contents of the files for each
// connection. It is immutable except for files, and safe for concurrent use.
type transportCreds struct {
	addr string
	// caFile and certFile are used in errors.
	caFile, certFile string
	files            *clienttls.Files
}

var _ credentials.TransportCredentials = (*transportCreds)(nil)

// ClientHandshake implements credentials.TransportCredentials. Each handshake has its own
// tls.Config; crypto/tls makes all checks.
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

// firstReadError explains why the first read after a handshake failed. In TLS 1.3 the client
// finishes the handshake before the server has verified its certificate, so a refusal arrives
// here; no other alert can.
func (t *transportCreds) firstReadError(err error, problem string) error {
	var alert *net.OpError
	switch {
	case errors.As(err, &alert) && alert.Op == "remote error":
		return &connError{ReasonCertificateRefused, fmt.Sprintf(
			"the broker at %s refused the client certificate in %s: %v%s",
			t.addr, t.certFile, alert.Err, stillInUse(problem))}
	case errors.Is(err, net.ErrClosed): // closed by this side
		return err
	case errors.Is(err, io.EOF):
		err = errors.New("connection closed")
	}
	return &connError{ReasonBrokerUnreachable, fmt.Sprintf(
		"cannot reach the broker at %s: %v right after the TLS handshake; the broker may be stopping, or may not accept the client certificate in %s%s",
		t.addr, err, t.certFile, stillInUse(problem))}
}

// stillInUse returns the part of an error's text that reports a failed rotation.
func stillInUse(problem string) string {
	if problem == "" {
		return ""
	}
	return fmt.Sprintf(" (the files on disk are invalid, so their earlier contents are in use: %s)", problem)
}

// ServerHandshake implements credentials.TransportCredentials.
func (*transportCreds) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("secretbroker: these are the credentials of a client")
}

// Info implements credentials.TransportCredentials.
func (*transportCreds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements credentials.TransportCredentials. A copy would share everything.
func (t *transportCreds) Clone() credentials.TransportCredentials { return t }

// OverrideServerName implements credentials.TransportCredentials, which deprecates it.
func (*transportCreds) OverrideServerName(string) error {
	return errors.New("secretbroker: set Config.ServerName instead")
}

// refusalWait is the time that a failed write waits for the alert that explains it. The
// server sends the alert before it closes the connection, so it has arrived or is lost.
const refusalWait = time.Second

// firstReadConn replaces the error of a connection on which no byte was read by one that
// explains it. Only one goroutine may read from it, as in grpc.
type firstReadConn struct {
	net.Conn
	explain func(error) error

	once  sync.Once
	known chan struct{} // closed after the first Read
	err   error         // the error of the first Read; set before known is closed
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

// Write returns the reason why the other side closed the connection, if there is one.
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
