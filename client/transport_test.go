package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/secretbroker/secretbroker/client"
)

// resolveError resolves, which must fail with that reason, and returns the error's message.
func resolveError(t *testing.T, c *client.Client, reason client.Reason) string {
	t.Helper()
	_, err := c.Resolve(t.Context(), request)
	var e *client.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want an *Error", err)
	}
	if e.Code != codes.Unavailable || e.Reason != reason {
		t.Errorf("got %v %q, want Unavailable %q: %v", e.Code, e.Reason, reason, e)
	}
	if strings.Contains(e.Message, string(reason)) || strings.Contains(e.Message, "desc =") {
		t.Errorf("the message is raw: %s", e.Message)
	}
	return e.Message
}

func mustContain(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q does not say %q", text, p)
		}
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	s := newSetup(t, echo)
	s.stop()
	c, waits := s.client(t)
	mustContain(t, resolveError(t, c, client.ReasonBrokerUnreachable), "cannot reach the broker at "+s.addr, "connection refused")
	if len(*waits) != 3 {
		t.Errorf("%d waits, want 3", len(*waits))
	}
}

func TestBrokerNotTrusted(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		setup func(*setup)
		want  string
	}{
		{"another CA", func(s *setup) { s.setTLS(newCA("other CA"), s.ca, "", inAnHour()) }, "unknown authority"},
		{"another name", func(s *setup) { s.setTLS(s.ca, s.ca, "other.test", inAnHour()) }, "127.0.0.1"},
		{"expired", func(s *setup) { s.setTLS(s.ca, s.ca, "", time.Now().Add(-time.Hour)) }, "expired"},
		{"not the ServerName", func(s *setup) { s.cfg.ServerName = "broker.test" }, "broker.test"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSetup(t, echo)
			tt.setup(s)
			c, _ := s.client(t)
			mustContain(t, resolveError(t, c, client.ReasonBrokerNotTrusted), s.addr, s.cfg.CAFile, tt.want)
			if s.calls.Load() != 0 {
				t.Error("the broker got the request")
			}
		})
	}
}

func TestCertificateRefused(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		setup func(*setup)
		want  string
	}{
		{"another CA", func(s *setup) { s.setTLS(s.ca, newCA("other CA"), "", inAnHour()) }, "unknown certificate authority"},
		{"expired", func(s *setup) {
			certPEM, keyPEM := issue(s.ca, "worker-1.test", time.Now().Add(-time.Hour))
			write(s.cfg.CertFile, certPEM)
			write(s.cfg.KeyFile, keyPEM)
		}, "expired"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSetup(t, echo)
			tt.setup(s)
			c, _ := s.client(t)
			mustContain(t, resolveError(t, c, client.ReasonCertificateRefused), s.addr, s.cfg.CertFile, tt.want)
		})
	}
}

func TestOldTLSRefused(t *testing.T) {
	t.Parallel()
	s := newSetup(t, echo)
	old := s.tls.Load().Clone()
	old.MaxVersion = tls.VersionTLS12
	s.tls.Store(old)
	c, _ := s.client(t)
	mustContain(t, resolveError(t, c, client.ReasonBrokerUnreachable), s.addr, "TLS handshake failed", "protocol version")
}

// serveRaw accepts connections and passes each to serve, which must close it.
func serveRaw(t *testing.T, serve func(net.Conn)) (addr string) {
	t.Helper()
	lis := must(net.Listen("tcp", "127.0.0.1:0"))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			serve(conn)
		}
	}()
	t.Cleanup(func() {
		_ = lis.Close()
		<-done
	})
	return lis.Addr().String()
}

func TestNotTLS(t *testing.T) {
	t.Parallel()
	s := newSetup(t, echo)
	s.cfg.Addrs = []string{serveRaw(t, func(conn net.Conn) {
		_, _ = conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
		_ = conn.Close()
	})}
	c, _ := s.client(t)
	mustContain(t, resolveError(t, c, client.ReasonBrokerUnreachable), s.cfg.Addrs[0], "TLS handshake failed", "does not look like a TLS handshake")
}

// TestClosedAfterHandshake: a broker that closes the connection without an alert, or whose
// alert is lost, may have refused the certificate. The error mentions that possibility.
func TestClosedAfterHandshake(t *testing.T) {
	t.Parallel()
	s := newSetup(t, echo)
	s.cfg.Addrs = []string{serveRaw(t, func(conn net.Conn) {
		cfg := s.tls.Load().Clone()
		cfg.NextProtos = []string{"h2"}
		tc := tls.Server(conn, cfg)
		_ = tc.Handshake()
		_ = tc.Close()
	})}
	c, _ := s.client(t)
	mustContain(t, resolveError(t, c, client.ReasonBrokerUnreachable), s.cfg.Addrs[0], "right after the TLS handshake", s.cfg.CertFile)
}

// TestRotation: certificate, key and CA change while the client runs. Connections stay open,
// and the next connection uses the new files.
func TestRotation(t *testing.T) {
	t.Parallel()
	s := newSetup(t, echo)
	c, _ := s.client(t)
	resolve := func() {
		t.Helper()
		if _, err := c.Resolve(t.Context(), request); err != nil {
			t.Fatal(err)
		}
	}
	resolve()

	next := newCA("next CA")
	s.setTLS(next, next, "", inAnHour())
	certPEM, keyPEM := issue(next, "worker-1.test", inAnHour())
	write(s.cfg.CAFile, next.PEM())
	write(s.cfg.CertFile, certPEM)
	write(s.cfg.KeyFile, keyPEM)
	resolve()
	if n := s.connections(); n != 1 {
		t.Errorf("%d connections, want the first one kept", n)
	}

	s.drop()
	resolve()
	if n := s.connections(); n < 2 {
		t.Errorf("%d connections, want a second one", n)
	}
	if log := s.log.String(); log != "" {
		t.Errorf("a good rotation logged: %s", log)
	}
}

// TestHalfRotation: while the files on disk are invalid, the client uses the last valid ones,
// and logs the problem once.
func TestHalfRotation(t *testing.T) {
	t.Parallel()
	authority := newCA("test CA")
	otherCert, otherKey := issue(authority, "worker-1.test", inAnHour())
	tests := []struct {
		name   string
		damage func(client.Config)
		want   string
	}{
		{"key partly written", func(c client.Config) { write(c.KeyFile, must(os.ReadFile(c.KeyFile))[:80]) }, "tls-key.pem"},
		{"key of the next certificate", func(c client.Config) { write(c.KeyFile, otherKey) }, "does not match"},
		{"next certificate without its key", func(c client.Config) { write(c.CertFile, otherCert) }, "does not match"},
		{"certificate gone", func(c client.Config) { _ = os.Remove(c.CertFile) }, "tls.pem"},
		{"CA partly written", func(c client.Config) { write(c.CAFile, must(os.ReadFile(c.CAFile))[:80]) }, "ca.pem"},
		{"CA emptied", func(c client.Config) { write(c.CAFile, nil) }, "ca.pem"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSetup(t, echo)
			c, _ := s.client(t)
			original := map[string][]byte{}
			for _, path := range []string{s.cfg.CAFile, s.cfg.CertFile, s.cfg.KeyFile} {
				original[path] = must(os.ReadFile(path))
			}
			reconnect := func() {
				t.Helper()
				s.drop()
				if _, err := c.Resolve(t.Context(), request); err != nil {
					t.Fatal(err)
				}
			}
			tt.damage(s.cfg)
			reconnect()
			reconnect()
			log := s.log.String()
			mustContain(t, log, "level=WARN", tt.want)
			if n := strings.Count(log, "level="); n != 1 {
				t.Errorf("%d log lines, want 1: %s", n, log)
			}
			if key := string(original[s.cfg.KeyFile][30:60]); strings.Contains(log, key) {
				t.Error("a key in the log")
			}
			for path, b := range original {
				write(path, b)
			}
			reconnect()
			mustContain(t, s.log.String(), "level=INFO")
		})
	}
}

// TestFailedRotationIsExplained: when the last valid certificate is refused, the error
// contains the problem with the new files, and the client recovers when they are valid.
func TestFailedRotationIsExplained(t *testing.T) {
	t.Parallel()
	s := newSetup(t, echo)
	s.cfg.MaxAttempts = 100
	s.cfg.Timeout = time.Minute
	c := s.waitingClient(t)

	next := newCA("next CA")
	certPEM, keyPEM := issue(next, "worker-1.test", inAnHour())
	s.setTLS(s.ca, next, "", inAnHour())
	write(s.cfg.CertFile, certPEM) // but not yet the key
	var message string
	c.SetWait(func(context.Context, time.Duration) error { return context.Canceled })
	_, err := c.Resolve(t.Context(), request)
	var e *client.Error
	if errors.As(err, &e) {
		message = e.Message
	}
	mustContain(t, message, "refused the client certificate", "files on disk are invalid", "does not match")

	// grpc decides when it reconnects.
	c.SetWait(client.Sleep)
	write(s.cfg.KeyFile, keyPEM)
	if _, err := c.Resolve(t.Context(), request); err != nil {
		t.Fatal(err)
	}
}
