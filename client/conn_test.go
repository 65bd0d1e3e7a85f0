package client

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// scriptedConn reads and writes what a test defines.
type scriptedConn struct {
	net.Conn
	read  func([]byte) (int, error)
	write error
}

func (c scriptedConn) Read(p []byte) (int, error) { return c.read(p) }
func (c scriptedConn) Write([]byte) (int, error)  { return 0, c.write }

func newFirstReadConn(c net.Conn) *firstReadConn {
	creds := &transportCreds{addr: addr, certFile: "tls.pem"}
	return &firstReadConn{
		Conn:    c,
		explain: func(err error) error { return creds.firstReadError(err, "") },
		known:   make(chan struct{}),
	}
}

var errRefused = &net.OpError{Op: "remote error", Err: tls.AlertError(48)}

// TestWriteReportsRefusal: a write on the closed connection reports the refusal that the
// reader finds a moment later.
func TestWriteReportsRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alert := make(chan struct{})
		c := newFirstReadConn(scriptedConn{
			read:  func([]byte) (int, error) { <-alert; return 0, errRefused },
			write: errors.New("broken pipe"),
		})
		written := make(chan error)
		go func() {
			_, err := c.Write([]byte("preface"))
			written <- err
		}()
		synctest.Wait() // Write waits for the reader
		close(alert)
		_, readErr := c.Read(nil)
		for _, err := range []error{readErr, <-written} {
			var e *connError
			if !errors.As(err, &e) || e.reason != ReasonCertificateRefused || !strings.Contains(e.message, "tls.pem") {
				t.Errorf("got %v, want a refusal", err)
			}
		}
	})
}

// TestWriteDoesNotWaitForEver: a write also fails if the reader finds no reason.
func TestWriteDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken pipe")
		c := newFirstReadConn(scriptedConn{write: broken})
		begin := time.Now()
		if _, err := c.Write(nil); !errors.Is(err, broken) {
			t.Errorf("got %v, want the write's own error", err)
		}
		if d := time.Since(begin); d != refusalWait {
			t.Errorf("it took %v, want %v", d, refusalWait)
		}
	})
}

// TestLaterErrorsStay: after the broker has sent data, errors are unchanged.
func TestLaterErrorsStay(t *testing.T) {
	broken := errors.New("broken pipe")
	n, readErr := 1, error(nil)
	c := newFirstReadConn(scriptedConn{
		read:  func([]byte) (int, error) { return n, readErr },
		write: broken,
	})
	if _, err := c.Read(nil); err != nil {
		t.Fatal(err)
	}
	n, readErr = 0, errRefused
	if _, err := c.Read(nil); !errors.Is(err, errRefused) {
		t.Errorf("Read: got %v, want %v", err, errRefused)
	}
	if _, err := c.Write(nil); !errors.Is(err, broken) {
		t.Errorf("Write: got %v, want %v", err, broken)
	}
}

func TestFirstReadError(t *testing.T) {
	creds := &transportCreds{addr: addr, certFile: "tls.pem"}
	for _, err := range []error{io.EOF, errors.New("connection reset by peer")} {
		var e *connError
		if !errors.As(creds.firstReadError(err, ""), &e) || e.reason != ReasonBrokerUnreachable {
			t.Errorf("%v: got %v, want %s", err, e, ReasonBrokerUnreachable)
		}
	}
	if err := creds.firstReadError(net.ErrClosed, ""); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed by this side: got %v, want it unchanged", err)
	}
}
