package azurekv

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	tenantID   = "0f0f0f0f-1111-2222-3333-444444444444"
	clientID   = "99999999-8888-7777-6666-555555555555"
	testSecret = "the-client-secret-of-the-test"
	canary     = "CANARY-s3cr3t-value-that-must-not-leak"
	version1   = "0123456789abcdef0123456789abcdef"

	vaultHost  = "my-vault.vault.azure.net"
	vaultURL   = "https://" + vaultHost
	otherHost  = "other-vault.vault.azure.net"
	otherURL   = "https://" + otherHost
	loginHost  = "login.example.test"
	strangers  = "stranger.vault.azure.net"
	imdsHost   = "169.254.169.254"
	goodSecret = `{"id":"` + vaultURL + `/secrets/db/` + version1 + `","value":"` + canary + `","attributes":{"enabled":true}}`
)

// fake is a vault, a login authority and a stranger, all behind TLS certificates
// of a CA that only integrations with its CAFile trust.
type fake struct {
	t      testing.TB
	caFile string
	cert   tls.Certificate
	// foreign is of the same CA, for a name that nobody asks for, expired no
	// longer valid.
	foreign, expired tls.Certificate
	dial             map[string]string
	logs             lockedBuffer

	mu        sync.Mutex
	issued    int             // tokens issued
	refused   map[string]bool // tokens that the vaults refuse
	reads     int             // requests to a vault with a token
	probes    int             // requests to a vault without one
	elsewhere []*http.Request // requests that reached the stranger
	forms     []url.Values    // token requests

	// vault answers an authorized read; token answers a token request; challenge
	// is the vaults' WWW-Authenticate header. Set before the first request.
	vault     http.HandlerFunc
	token     http.HandlerFunc
	challenge string
	// discovery is the authority's discovery document, if not the usual one.
	discovery string
}

func newFake(t testing.TB) *fake {
	t.Helper()
	f := &fake{
		t: t, refused: map[string]bool{}, dial: map[string]string{},
		challenge: fmt.Sprintf(`Bearer authorization="https://%s/%s", resource="https://vault.azure.net"`, loginHost, tenantID),
	}
	f.vault = func(w http.ResponseWriter, r *http.Request) { f.answer(w, r, "", 0) }
	f.token = func(w http.ResponseWriter, _ *http.Request) { f.issue(w) }
	f.makeCertificates()
	for host, h := range map[string]http.HandlerFunc{
		vaultHost: f.serveVault, otherHost: f.serveVault, loginHost: f.serveLogin, strangers: f.serveStranger,
	} {
		f.serve(host, f.cert, h)
	}
	return f
}

func (f *fake) serve(host string, cert tls.Certificate, h http.HandlerFunc) {
	srv := httptest.NewUnstartedServer(h)
	srv.EnableHTTP2 = true
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.StartTLS()
	f.t.Cleanup(srv.Close)
	f.dial[host] = srv.Listener.Addr().String()
}

// makeCertificates makes a CA, writes it to caFile, and two leaves of it.
func (f *fake) makeCertificates() {
	f.t.Helper()
	caKey := ecKey(f.t)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	must(f.t, err)
	f.caFile = writeFile(f.t, "ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}))
	leaf := func(notAfter time.Time, names ...string) tls.Certificate {
		key := ecKey(f.t)
		template := &x509.Certificate{
			SerialNumber: big.NewInt(2), DNSNames: names,
			NotBefore: ca.NotBefore, NotAfter: notAfter,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}
		der, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), caKey)
		must(f.t, err)
		return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	}
	f.cert = leaf(ca.NotAfter, "*.vault.azure.net", loginHost, "login.microsoftonline.com")
	f.foreign = leaf(ca.NotAfter, "elsewhere.example.test")
	f.expired = leaf(time.Now().Add(-time.Minute), "*.vault.azure.net")
}

func (f *fake) serveVault(w http.ResponseWriter, r *http.Request) {
	auth := r.Header.Get("Authorization")
	f.mu.Lock()
	bad := auth == "" || f.refused[strings.TrimPrefix(auth, "Bearer ")]
	if auth == "" {
		f.probes++
	} else {
		f.reads++
	}
	f.mu.Unlock()
	if bad {
		w.Header().Set("WWW-Authenticate", f.challenge)
		writeJSON(w, http.StatusUnauthorized, `{"error":{"code":"Unauthorized","message":"AKV10000"}}`)
		return
	}
	f.vault(w, r)
}

// answer is a good answer to any read, with more attributes if given.
func (f *fake) answer(w http.ResponseWriter, r *http.Request, attributes string, status int) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	version := version1
	if len(parts) > 2 && parts[2] != "" {
		version = parts[2]
	}
	id := fmt.Sprintf("https://%s/secrets/%s/%s", r.Host, parts[1], version)
	if status == 0 {
		status = http.StatusOK
	}
	writeJSON(w, status, fmt.Sprintf(`{"id":%q,"value":%q,"attributes":{"enabled":true%s}}`, id, canary, attributes))
}

func (f *fake) serveLogin(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/.well-known/openid-configuration") {
		if f.discovery != "" {
			writeJSON(w, http.StatusOK, f.discovery)
			return
		}
		base := "https://" + loginHost + "/" + tenantID
		writeJSON(w, http.StatusOK, fmt.Sprintf(`{"issuer":"%s/v2.0","authorization_endpoint":"%s/authorize","token_endpoint":"%s/token"}`, base, base, base))
		return
	}
	if err := r.ParseForm(); err != nil {
		panic(err)
	}
	f.mu.Lock()
	f.forms = append(f.forms, r.PostForm)
	f.mu.Unlock()
	f.token(w, r)
}

func (f *fake) issue(w http.ResponseWriter) {
	f.mu.Lock()
	f.issued++
	n := f.issued
	f.mu.Unlock()
	writeJSON(w, http.StatusOK, fmt.Sprintf(`{"token_type":"Bearer","expires_in":3600,"access_token":"access-token-%d"}`, n))
}

func (f *fake) serveStranger(_ http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.elsewhere = append(f.elsewhere, r)
}

// refuse makes the vaults refuse the tokens issued so far.
func (f *fake) refuse() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for n := 1; n <= f.issued; n++ {
		f.refused[fmt.Sprintf("access-token-%d", n)] = true
	}
}

func (f *fake) counts() (issued, reads int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.issued, f.reads
}

// integration is one that reaches the fake by client secret.
func (f *fake) integration() *integration.Integration {
	return &integration.Integration{
		ID: "it", Revision: "1", Kind: secret.KindAzureKeyVault,
		Azure: &integration.Azure{
			TenantID: tenantID, ClientID: clientID,
			Credential: integration.AzureCredential{
				Type: integration.AzureClientSecret, ClientSecretFile: writeFile(f.t, "secret", []byte(testSecret+"\r\n")),
			},
			Vaults: []string{vaultURL, otherURL}, CAFile: f.caFile,
			AuthorityHost: "https://" + loginHost + "/", DisableInstanceDiscovery: true, Dial: f.dial,
		},
	}
}

func (f *fake) config() provider.Config {
	return provider.Config{Logger: slog.New(slog.NewTextHandler(&f.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))}
}

func (f *fake) open(cfg provider.Config, in *integration.Integration) *store {
	f.t.Helper()
	p, err := Opener(cfg)(f.t.Context(), in)
	if err != nil {
		f.t.Fatalf("open: %v", err)
	}
	f.t.Cleanup(func() {
		if err := p.Close(); err != nil {
			f.t.Error(err)
		}
	})
	return p.(*store)
}

// fetch expects a value.
func (f *fake) fetch(s *store, ref secret.Ref) *secret.Secret {
	f.t.Helper()
	sec, err := s.Fetch(f.t.Context(), ref)
	if err != nil {
		f.t.Fatalf("Fetch: %v", err)
	}
	return sec
}

// fails expects an error of this reason which, like the log, quotes nothing.
func (f *fake) fails(s *store, ctx context.Context, ref secret.Ref, want secret.Reason) *secret.Error {
	f.t.Helper()
	sec, err := s.Fetch(ctx, ref)
	if err == nil {
		f.t.Fatalf("Fetch gave %v, want %s", sec, want)
	}
	return f.checkError(err, want)
}

func (f *fake) checkError(err error, want secret.Reason) *secret.Error {
	f.t.Helper()
	var e *secret.Error
	if !errors.As(err, &e) {
		f.t.Fatalf("error of type %T: %v", err, err)
	}
	if e.Reason != want {
		f.t.Fatalf("reason %s, want %s: %v", e.Reason, want, err)
	}
	if e.Message == "" {
		f.t.Error("no message")
	}
	text := fmt.Sprintf("%v\n%+v\n%#v\n", err, err, err)
	for c := err; c != nil; c = errors.Unwrap(c) {
		text += fmt.Sprintf("%v\n%+v\n%#v\n", c, c, c)
	}
	checkClean(f.t, "the error", text)
	checkClean(f.t, "the log", f.logs.String())
	return e
}

func checkClean(t testing.TB, where, text string) {
	t.Helper()
	for _, word := range []string{canary, testSecret, "access-token-", "Bearer"} {
		if strings.Contains(text, word) {
			t.Errorf("%s holds %q:\n%s", where, word, text)
		}
	}
}

func ref(t testing.TB, s string) secret.Ref {
	t.Helper()
	r, err := secret.ParseRef(s)
	must(t, err)
	return r
}

func reveal(t testing.TB, s *secret.Secret) string {
	t.Helper()
	v, err := s.Select("")
	must(t, err)
	return v.Reveal()
}

func writeJSON(w http.ResponseWriter, status int, body string) {
	if !json.Valid([]byte(body)) {
		panic("not JSON: " + body)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

func writeFile(t testing.TB, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(path, b, 0o600))
	return path
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

// closedPort is an address where nobody listens.
func closedPort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
