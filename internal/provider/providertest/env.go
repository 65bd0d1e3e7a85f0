package providertest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
)

// Canary is the value of secrets in tests. It must not occur in an error or a log.
const Canary = "CANARY-s3cr3t-value-that-must-not-leak"

// Env is the environment of one test of a kind: servers behind certificates that only
// integrations with CAFile trust, the log, and the checks that all kinds share. A kind's
// tests embed it in their fake.
type Env struct {
	testing.TB
	CA *trusttest.CA
	// CAFile is the file with the CA's certificate.
	CAFile string
	// Dial maps the host of each server to its address, for an integration's dial
	// setting. A test may change it before it opens the provider.
	Dial map[string]string
	Logs Log

	private []string
}

// NewEnv returns an Env that ends with the test. private are words that must not
// occur in an error or the log, in addition to Canary.
func NewEnv(t testing.TB, private ...string) *Env {
	t.Helper()
	ca := trusttest.NewCA(t, "test CA")
	return &Env{
		TB: t, CA: ca, CAFile: WriteFile(t, "ca.pem", string(trusttest.PEM("CERTIFICATE", ca.Cert.Raw))),
		Dial: make(map[string]string), private: append(private, Canary),
	}
}

// Certificate issues a server certificate for the names.
func (e *Env) Certificate(names ...string) tls.Certificate {
	e.Helper()
	return *e.CA.Issue(func(c *x509.Certificate) { c.DNSNames = names })
}

// Expired issues a server certificate that has expired.
func (e *Env) Expired(names ...string) tls.Certificate {
	e.Helper()
	return *e.CA.Issue(func(c *x509.Certificate) { c.DNSNames, c.NotAfter = names, time.Now().Add(-time.Minute) })
}

// Serve starts a server for the hosts, over TLS and HTTP/2, until the test ends.
func (e *Env) Serve(cert tls.Certificate, h http.Handler, hosts ...string) *httptest.Server {
	e.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.EnableHTTP2 = true
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.StartTLS()
	e.Cleanup(srv.Close)
	for _, host := range hosts {
		e.Dial[host] = srv.Listener.Addr().String()
	}
	return srv
}

// Config returns a configuration that logs to Logs.
func (e *Env) Config() provider.Config {
	return provider.Config{Logger: slog.New(slog.NewTextHandler(&e.Logs, &slog.HandlerOptions{Level: slog.LevelDebug}))}
}

// Open opens the integration's provider until the test ends.
func (e *Env) Open(opener provider.Opener, in *integration.Integration) provider.Provider {
	e.Helper()
	p, err := opener(e.Context(), in)
	if err != nil {
		e.Fatalf("open: %v", err)
	}
	e.Cleanup(func() {
		if err := p.Close(); err != nil {
			e.Error(err)
		}
	})
	return p
}

// Fetch expects a secret, and that the log contains no private word.
func (e *Env) Fetch(p provider.Provider, ref string) *secret.Secret {
	e.Helper()
	got, err := p.Fetch(e.Context(), Ref(e, ref))
	if err != nil {
		e.Fatalf("Fetch(%s): %v", ref, err)
	}
	e.CheckClean("the log", e.Logs.String())
	return got
}

// Gives expects a value, and returns the secret's version.
func (e *Env) Gives(p provider.Provider, ref, want string) (version string) {
	e.Helper()
	got := e.Fetch(p, ref)
	if Reveal(e, got) != want {
		e.Errorf("Fetch(%s): not the value that was put", ref)
	}
	return got.Version
}

// Fails expects an error as CheckError does.
func (e *Env) Fails(ctx context.Context, p provider.Provider, ref string, want secret.Reason) *secret.Error {
	e.Helper()
	got, err := p.Fetch(ctx, Ref(e, ref))
	if err == nil {
		e.Fatalf("Fetch(%s) gave version %s, want %s", ref, got.Version, want)
	}
	return e.CheckError(err, want)
}

// CheckError expects a *secret.Error of the reason, with a message. Neither the error,
// its chain nor the log may contain a private word.
func (e *Env) CheckError(err error, want secret.Reason) *secret.Error {
	e.Helper()
	var got *secret.Error
	if !errors.As(err, &got) {
		e.Fatalf("error of type %T: %v", err, err)
	}
	if got.Reason != want {
		e.Fatalf("reason %s, want %s: %v", got.Reason, want, err)
	}
	if got.Message == "" {
		e.Error("no message")
	}
	for c := err; c != nil; c = errors.Unwrap(c) {
		e.CheckClean("the error", fmt.Sprintf("%v\n%+v\n%#v\n", c, c, c))
	}
	e.CheckClean("the log", e.Logs.String())
	return got
}

// CheckClean expects that text contains no private word.
func (e *Env) CheckClean(where, text string) {
	e.Helper()
	for _, word := range e.private {
		if strings.Contains(text, word) {
			e.Errorf("%s contains %q:\n%s", where, word, text)
		}
	}
}

// Log is a log in memory. It is safe for concurrent use.
type Log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String returns everything that was written.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Must ends the test if err is not nil.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// WriteFile writes a file of the test and returns its path.
func WriteFile[T ~string | ~[]byte](t testing.TB, name string, content T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	Must(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// WriteJSON answers a request with a body that has to be JSON.
func WriteJSON(w http.ResponseWriter, status int, body string) {
	if !json.Valid([]byte(body)) {
		panic("not JSON: " + body)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// ClosedPort returns an address that refuses connections.
func ClosedPort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	Must(t, err)
	Must(t, l.Close())
	return l.Addr().String()
}

// Ref parses a reference.
func Ref(t testing.TB, text string) secret.Ref {
	t.Helper()
	ref, err := secret.ParseRef(text)
	Must(t, err)
	return ref
}

// Reveal returns the value of a whole secret.
func Reveal(t testing.TB, s *secret.Secret) string {
	t.Helper()
	v, err := s.Select("")
	Must(t, err)
	return v.Reveal() //nolint:forbidigo // a test's own value
}
