package awssm

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	canary     = "CANARY-s3cr3t-value-that-must-not-leak"
	account    = "123456789012"
	otherOne   = "210987654321"
	region     = "eu-west-1"
	storeURL   = "https://secretsmanager." + region + ".amazonaws.com"
	storeARN   = "arn:aws:secretsmanager:" + region + ":" + account
	smHost     = "secretsmanager." + region + ".amazonaws.com"
	stsHost    = "sts." + region + ".amazonaws.com"
	otherHost  = "secretsmanager.us-east-1.amazonaws.com"
	roleARN    = "arn:aws:iam::" + account + ":role/team/reader"
	externalID = "external-id-of-it"
	baseKey    = "AKIABASE"
	baseSecret = "the-secret-access-key-of-the-test"
	oidcToken  = "the.oidc.token"
)

// fake is Secrets Manager in two regions and STS, behind TLS certificates of a CA
// that only integrations with its CAFile trust. It checks the signature of each
// request, as AWS does, by signing it again.
type fake struct {
	t      testing.TB
	caFile string
	cert   tls.Certificate
	dial   map[string]string
	server map[string]*httptest.Server // by host
	logs   lockedBuffer

	mu      sync.Mutex
	keys    map[string]owner // by access key ID
	secrets map[string][]*fakeSecret
	calls   []string    // operations, in order
	asked   []assumed   // of STS
	reads   []fakeInput // of Secrets Manager
	session int         // how many have been given
	life    time.Duration
	faults  []string // of the requests

	// answer, if set, answers an operation instead; it returns false to let the
	// fake do so.
	answer func(w http.ResponseWriter, r *http.Request, operation string, body []byte) bool
}

// owner is whose an access key is.
type owner struct {
	keys aws.Credentials
	role string // "" for the base credential
}

func newFake(t testing.TB) *fake {
	t.Helper()
	f := &fake{t: t, dial: map[string]string{}, server: map[string]*httptest.Server{}, secrets: map[string][]*fakeSecret{}, life: time.Hour, keys: map[string]owner{
		baseKey: {keys: aws.Credentials{AccessKeyID: baseKey, SecretAccessKey: baseSecret}},
	}}
	f.makeCertificate(smHost, otherHost, stsHost, "secretsmanager-fips."+region+".amazonaws.com")
	for host, h := range map[string]http.HandlerFunc{
		smHost:    func(w http.ResponseWriter, r *http.Request) { f.serveSecrets(w, r, region) },
		otherHost: func(w http.ResponseWriter, r *http.Request) { f.serveSecrets(w, r, "us-east-1") },
		stsHost:   f.serveSTS,
	} {
		f.serve(host, h)
	}
	t.Cleanup(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, fault := range f.faults {
			t.Error(fault)
		}
	})
	return f
}

func (f *fake) serve(host string, h http.HandlerFunc) {
	srv := httptest.NewUnstartedServer(h)
	srv.EnableHTTP2 = true
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{f.cert}, MinVersion: tls.VersionTLS12}
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.StartTLS()
	f.t.Cleanup(srv.Close)
	f.server[host], f.dial[host] = srv, srv.Listener.Addr().String()
}

func (f *fake) makeCertificate(names ...string) {
	f.t.Helper()
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(f.t, err)
		return k
	}
	caKey, leafKey := key(), key()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	must(f.t, err)
	f.caFile = writeFile(f.t, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})))
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: names, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, leafKey.Public(), caKey)
	must(f.t, err)
	f.cert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: leafKey}
}

// fault notes what a real AWS would not have got.
func (f *fake) fault(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, text)
}

// signer returns whose signature the request has, or the code of AWS's error.
func (f *fake) signer(r *http.Request, body []byte, service, region string) (who owner, code string) {
	auth, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=")
	if !ok {
		return owner{}, "MissingAuthenticationTokenException"
	}
	id, scope, _ := strings.Cut(auth, "/")
	f.mu.Lock()
	who, known := f.keys[id]
	f.mu.Unlock()
	if !known {
		return owner{}, "UnrecognizedClientException"
	}
	if got := r.Header.Get("X-Amz-Security-Token"); got != who.keys.SessionToken {
		return owner{}, "UnrecognizedClientException"
	}
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil || !strings.HasPrefix(scope, at.Format("20060102")+"/"+region+"/"+service+"/aws4_request,") {
		f.fault("a signature for something else: " + scope)
		return owner{}, "InvalidSignatureException"
	}
	again, err := http.NewRequestWithContext(context.Background(), r.Method, "https://"+r.Host+r.URL.RequestURI(), bytes.NewReader(body))
	must(f.t, err)
	_, rest, _ := strings.Cut(auth, "SignedHeaders=")
	signed, _, _ := strings.Cut(rest, ",")
	for name := range strings.SplitSeq(signed, ";") {
		switch name {
		case "host", "content-length", "x-amz-date", "x-amz-security-token":
		default:
			again.Header[http.CanonicalHeaderKey(name)] = r.Header.Values(name)
		}
	}
	sum := sha256.Sum256(body)
	must(f.t, v4.NewSigner().SignHTTP(r.Context(), who.keys, again, hex.EncodeToString(sum[:]), service, region, at))
	if again.Header.Get("Authorization") != r.Header.Get("Authorization") {
		return owner{}, "InvalidSignatureException"
	}
	return who, ""
}

// begin notes the operation and lets the test answer it.
func (f *fake) begin(w http.ResponseWriter, r *http.Request, operation string, body []byte) (done bool) {
	f.mu.Lock()
	f.calls = append(f.calls, operation)
	answer := f.answer
	f.mu.Unlock()
	return answer != nil && answer(w, r, operation, body)
}

// count returns how often an operation was asked for.
func (f *fake) count(operation string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.calls {
		if c == operation {
			n++
		}
	}
	return n
}

// revoke makes AWS forget the keys of all sessions.
func (f *fake) revoke() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id := range f.keys {
		if id != baseKey {
			delete(f.keys, id)
		}
	}
}

// integration is one that reaches the fake by static keys and a role.
func (f *fake) integration() *integration.Integration {
	return &integration.Integration{
		ID: "it", Revision: "1", Kind: secret.KindAWSSecretsManager,
		AWS: &integration.AWS{
			Stores:    []string{storeURL, storeARN, "https://" + otherHost, "arn:aws:secretsmanager:us-east-1:" + account},
			AccountID: account,
			Role:      &integration.AWSRole{ARN: roleARN, ExternalID: externalID, Duration: time.Hour},
			Credential: integration.AWSCredential{
				Type:                integration.AWSStatic,
				AccessKeyIDFile:     writeFile(f.t, "id", baseKey+"\n"),
				SecretAccessKeyFile: writeFile(f.t, "key", baseSecret+"\n"),
			},
			Endpoints:   map[string]string{region: storeURL, "us-east-1": "https://" + otherHost},
			STSRegion:   region,
			STSEndpoint: "https://" + stsHost,
			CAFile:      f.caFile,
			Dial:        f.dial,
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

func writeFile(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func readAll(t testing.TB, r *http.Request) []byte {
	b, err := io.ReadAll(r.Body)
	must(t, err)
	return b
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
