package gcpsm

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/devmode/secretmanager"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	project       = "projects/my-project"
	projectNumber = "123456789012"
	regional      = project + "/locations/europe-west3"
	apiHost       = "secretmanager.googleapis.com"
	regionalHost  = "secretmanager.europe-west3.rep.googleapis.com"
	base          = "broker@my-project.iam.gserviceaccount.com"
	reader        = "reader@my-project.iam.gserviceaccount.com"
	federated     = "principal://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/subject/broker"
	subject       = "SUBJECT-token-of-the-other-provider"
	canary        = "CANARY-s3cr3t-value-that-must-not-leak"
)

// fake is Google Cloud: the embedded endpoint behind TLS certificates of a CA that
// only integrations with its CAFile trust, with hooks to make it misbehave.
type fake struct {
	t      testing.TB
	server *secretmanager.Server
	caFile string
	addr   string
	dial   map[string]string
	logs   lockedBuffer

	mu    sync.Mutex
	state *secretmanager.State
	hosts map[string]int // requests by host
	reads int            // to Secret Manager
	hook  http.HandlerFunc
	only  string // the host that hook is for
}

func newFake(t testing.TB) *fake {
	t.Helper()
	f := &fake{t: t, dial: make(map[string]string), hosts: make(map[string]int)}
	f.state = &secretmanager.State{
		Projects: map[string]*secretmanager.Project{"my-project": {
			Number: projectNumber, Readers: []string{reader},
			Secrets: map[string]*secretmanager.Secret{"db": {
				Versions: []secretmanager.Version{{Value: "the old one"}, {Value: canary}},
				Aliases:  map[string]int{"stable": 1},
			}},
			Locations: map[string]map[string]*secretmanager.Secret{"europe-west3": {"db": {
				Versions: []secretmanager.Version{{Value: canary + " of the region"}},
			}}},
		}},
		ServiceAccounts: map[string]*secretmanager.ServiceAccount{
			base:   {PublicKeyPEM: publicPEM(t)},
			reader: {TokenCreators: []string{base, federated}},
		},
		SubjectTokens: map[string]string{subject: federated},
		Machine:       base,
	}
	var err error
	f.server, err = secretmanager.New(f.state, nil)
	must(t, err)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(f.serve))
	srv.EnableHTTP2 = true
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{f.makeCertificates()}, MinVersion: tls.VersionTLS12}
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	f.addr = srv.Listener.Addr().String()
	for _, host := range []string{apiHost, regionalHost, integration.GCPOAuthHost, integration.GCPSTSHost, integration.GCPIAMCredentialsHost} {
		f.dial[host] = f.addr
	}
	return f
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.hosts[r.Host]++
	if strings.HasPrefix(r.Host, "secretmanager.") {
		f.reads++
	}
	hook := f.hook
	if f.only != r.Host {
		hook = nil
	}
	f.mu.Unlock()
	if hook != nil {
		hook(w, r)
		return
	}
	f.server.ServeHTTP(w, r)
}

// intercept makes hook answer the requests to host; nil ends that.
func (f *fake) intercept(host string, hook http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.only, f.hook = host, hook
}

// change changes the state.
func (f *fake) change(edit func(s *secretmanager.State, p *secretmanager.Project)) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	b, err := json.Marshal(f.state)
	must(f.t, err)
	fresh := new(secretmanager.State)
	must(f.t, json.Unmarshal(b, fresh))
	edit(fresh, fresh.Projects["my-project"])
	must(f.t, f.server.Replace(fresh))
	f.state = fresh
}

func (f *fake) requests(host string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hosts[host]
}

func (f *fake) readCount() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reads
}

// makeCertificates makes a CA, writes it to caFile, and a leaf of it.
func (f *fake) makeCertificates() tls.Certificate {
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
	key := ecKey(f.t)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{"*.googleapis.com", regionalHost},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca, key.Public(), caKey)
	must(f.t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// integration reaches the fake by the broker's key, and reads as another account.
func (f *fake) integration() *integration.Integration {
	return &integration.Integration{
		ID: "it", Revision: "1", Kind: secret.KindGCPSecretManager,
		GCP: &integration.GCP{
			Stores:                    []string{project, regional},
			ImpersonateServiceAccount: reader,
			Credential:                integration.GCPCredential{Type: integration.GCPServiceAccountKey, KeyFile: f.keyFile(base)},
			CAFile:                    f.caFile, Dial: f.dial,
		},
	}
}

// keyFile is a key file as the console writes it.
func (f *fake) keyFile(account string) string {
	return writeJSONFile(f.t, map[string]string{
		"type": "service_account", "project_id": "my-project", "private_key_id": "k1", "private_key": privatePEM(f.t),
		"client_email": account, "client_id": "1", "auth_uri": "https://accounts.google.com/o/oauth2/auth",
		"token_uri": "https://oauth2.googleapis.com/token", "universe_domain": "googleapis.com",
	})
}

// config has the patience that tests need on a machine with much else to do.
func (f *fake) config() provider.Config {
	return provider.Config{
		Logger:     slog.New(slog.NewTextHandler(&f.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
		TryTimeout: time.Minute, LoginTimeout: time.Minute,
	}
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

// gives expects a value and returns its version.
func (f *fake) gives(s *store, in, want string) string {
	f.t.Helper()
	sec, err := s.Fetch(f.t.Context(), ref(f.t, in))
	if err != nil {
		f.t.Fatalf("Fetch(%s): %v", in, err)
	}
	v, err := sec.Select("")
	must(f.t, err)
	if v.Reveal() != want {
		f.t.Errorf("Fetch(%s): not the value that was put", in)
	}
	return sec.Version
}

// fails expects an error of this reason which, like the log, quotes nothing.
func (f *fake) fails(s *store, ctx context.Context, in string, want secret.Reason) *secret.Error {
	f.t.Helper()
	sec, err := s.Fetch(ctx, ref(f.t, in))
	if err == nil {
		f.t.Fatalf("Fetch gave version %s, want %s", sec.Version, want)
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
	var text strings.Builder
	for c := err; c != nil; c = errors.Unwrap(c) {
		fmt.Fprintf(&text, "%v\n%+v\n%#v\n", c, c, c)
	}
	for where, text := range map[string]string{"the error": text.String(), "the log": f.logs.String()} {
		for _, word := range []string{canary, "ya29.", "Bearer", subject, "PRIVATE KEY", "REFRESH-token"} {
			if strings.Contains(text, word) {
				f.t.Errorf("%s holds %q:\n%s", where, word, text)
			}
		}
	}
	return e
}

func ref(t testing.TB, s string) secret.Ref {
	t.Helper()
	r, err := secret.ParseRef(s)
	must(t, err)
	return r
}

// rsaKey is made once: that takes a while.
var rsaKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

func privatePEM(t testing.TB) string {
	t.Helper()
	key, err := rsaKey()
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func publicPEM(t testing.TB) string {
	t.Helper()
	key, err := rsaKey()
	must(t, err)
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

func writeFile(t testing.TB, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(path, b, 0o600))
	return path
}

func writeJSONFile(t testing.TB, doc any) string {
	t.Helper()
	b, err := json.Marshal(doc)
	must(t, err)
	return writeFile(t, "credential.json", b)
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

// printed is all that reflection finds in v.
func printed(v any) string { return fmt.Sprintf("%v %+v %#v", v, v, v) }
