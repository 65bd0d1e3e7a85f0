package awssm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	canary     = providertest.Canary
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
	*providertest.Env
	cert   tls.Certificate
	server map[string]*httptest.Server // by host

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
	f := &fake{Env: providertest.NewEnv(t, baseSecret, oidcToken, "session-secret", "session-token", "AWS4-HMAC"), server: map[string]*httptest.Server{}, secrets: map[string][]*fakeSecret{}, life: time.Hour, keys: map[string]owner{
		baseKey: {keys: aws.Credentials{AccessKeyID: baseKey, SecretAccessKey: baseSecret}},
	}}
	f.cert = f.Certificate(smHost, otherHost, stsHost, "secretsmanager-fips."+region+".amazonaws.com")
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
	f.server[host] = f.Serve(f.cert, h, host)
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
	providertest.Must(f, err)
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
	providertest.Must(f, v4.NewSigner().SignHTTP(r.Context(), who.keys, again, hex.EncodeToString(sum[:]), service, region, at))
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
		Settings: &Settings{
			Stores:    []string{storeURL, storeARN, "https://" + otherHost, "arn:aws:secretsmanager:us-east-1:" + account},
			AccountID: account,
			Role:      &Role{ARN: roleARN, ExternalID: externalID, Duration: time.Hour},
			Credential: Credential{
				Type:                Static,
				AccessKeyIDFile:     providertest.WriteFile(f, "id", baseKey+"\n"),
				SecretAccessKeyFile: providertest.WriteFile(f, "key", baseSecret+"\n"),
			},
			Endpoints:   map[string]string{region: storeURL, "us-east-1": "https://" + otherHost},
			STSRegion:   region,
			STSEndpoint: "https://" + stsHost,
			CAFile:      f.CAFile,
			Dial:        f.Dial,
		},
	}
}

func (f *fake) open(cfg provider.Config, in *integration.Integration) *store {
	f.Helper()
	return f.Open(Opener(cfg), in).(*store)
}

func readAll(t testing.TB, r *http.Request) []byte {
	b, err := io.ReadAll(r.Body)
	providertest.Must(t, err)
	return b
}
