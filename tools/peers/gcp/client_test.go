// Package gcp tests the embedded Secret Manager of internal/devmode/secretmanager with
// Google's own client and credentials, to verify that it behaves like the real one. The
// broker's tests use it.
package gcp

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"hash/crc32"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloud.google.com/go/auth"
	"cloud.google.com/go/auth/credentials"
	"cloud.google.com/go/auth/credentials/impersonate"
	"cloud.google.com/go/auth/httptransport"
	secretmanager "cloud.google.com/go/secretmanager/apiv1"
	"cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"github.com/googleapis/gax-go/v2"
	"github.com/googleapis/gax-go/v2/apierror"
	"google.golang.org/api/option"

	fake "github.com/secretbroker/secretbroker/internal/devmode/secretmanager"
)

const (
	broker    = "broker@my-project.iam.gserviceaccount.com"
	reader    = "reader@my-project.iam.gserviceaccount.com"
	federated = "principal://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/subject/broker"
	scope     = "https://www.googleapis.com/auth/cloud-platform"
	db        = "projects/my-project/secrets/db"
	europe    = "projects/my-project/locations/europe-west3/secrets/db"
)

// world contains the embedded endpoint, a client for it, and a service account's key.
type world struct {
	server  *fake.Server
	state   *fake.State
	client  *http.Client // connects to the endpoint for any host
	keyJSON []byte
}

func start(t *testing.T) *world {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	must(t, err)
	w := &world{state: &fake.State{
		Projects: map[string]*fake.Project{"my-project": {
			Number: "123456789012", Readers: []string{reader},
			Secrets: map[string]*fake.Secret{
				"db": {
					Versions: []fake.Version{{Value: "one"}, {Value: "/u3+7Q==", Base64: true}, {Value: "three", State: "DISABLED"}},
					Aliases:  map[string]int{"stable": 1},
				},
				"empty": {},
			},
			Locations: map[string]map[string]*fake.Secret{"europe-west3": {"db": {Versions: []fake.Version{{Value: "of the region"}}}}},
		}},
		ServiceAccounts: map[string]*fake.ServiceAccount{
			broker: {PublicKeyPEM: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))},
			reader: {TokenCreators: []string{broker, federated}},
		},
		SubjectTokens: map[string]string{"subject": federated},
	}}
	w.keyJSON, err = json.Marshal(map[string]string{
		"type": "service_account", "project_id": "my-project", "private_key_id": "k", "client_email": broker,
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
		"token_uri":   "https://oauth2.googleapis.com/token",
	})
	must(t, err)
	w.server, err = fake.New(w.state, nil)
	must(t, err)
	srv := httptest.NewTLSServer(w.server)
	t.Cleanup(srv.Close)
	transport := srv.Client().Transport.(*http.Transport).Clone()
	transport.TLSClientConfig.ServerName = "example.com" // the certificate's
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, srv.Listener.Addr().String())
	}
	t.Cleanup(transport.CloseIdleConnections)
	w.client = &http.Client{Transport: transport}
	return w
}

// base is the broker's own credential.
func (w *world) base(t *testing.T) *auth.Credentials {
	t.Helper()
	creds, err := credentials.DetectDefault(&credentials.DetectOptions{CredentialsJSON: w.keyJSON, Scopes: []string{scope}, Client: w.client})
	must(t, err)
	return creds
}

// impersonating acts as the reader.
func (w *world) impersonating(t *testing.T) *auth.Credentials {
	t.Helper()
	client, err := httptransport.NewClient(&httptransport.Options{Credentials: w.base(t), BaseRoundTripper: w.client.Transport})
	must(t, err)
	creds, err := impersonate.NewCredentials(&impersonate.CredentialsOptions{TargetPrincipal: reader, Scopes: []string{scope}, Client: client})
	must(t, err)
	return creds
}

func (w *world) open(t *testing.T, creds *auth.Credentials, endpoint string) *secretmanager.Client {
	t.Helper()
	client, err := httptransport.NewClient(&httptransport.Options{Credentials: creds, BaseRoundTripper: w.client.Transport})
	must(t, err)
	opts := []option.ClientOption{option.WithHTTPClient(client)}
	if endpoint != "" {
		opts = append(opts, option.WithEndpoint(endpoint))
	}
	c, err := secretmanager.NewRESTClient(t.Context(), opts...)
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func access(t *testing.T, c *secretmanager.Client, name string) (*secretmanagerpb.AccessSecretVersionResponse, error) {
	t.Helper()
	return c.AccessSecretVersion(t.Context(), &secretmanagerpb.AccessSecretVersionRequest{Name: name})
}

func TestAccess(t *testing.T) {
	w := start(t)
	global := w.open(t, w.impersonating(t), "")
	regional := w.open(t, w.impersonating(t), "https://secretmanager.europe-west3.rep.googleapis.com")
	for _, tt := range []struct {
		client            *secretmanager.Client
		name, full, value string
	}{
		{global, db + "/versions/1", "projects/123456789012/secrets/db/versions/1", "one"},
		{global, db + "/versions/stable", "projects/123456789012/secrets/db/versions/1", "one"},
		{global, db + "/versions/2", "projects/123456789012/secrets/db/versions/2", "\xfe\xed\xfe\xed"},
		{regional, europe + "/versions/latest", "projects/123456789012/locations/europe-west3/secrets/db/versions/1", "of the region"},
	} {
		got, err := access(t, tt.client, tt.name)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got.Name != tt.full || string(got.Payload.Data) != tt.value {
			t.Errorf("%s: %s with %d bytes", tt.name, got.Name, len(got.Payload.Data))
		}
		if sum := int64(crc32.Checksum(got.Payload.Data, crc32.MakeTable(crc32.Castagnoli))); got.Payload.DataCrc32C == nil || *got.Payload.DataCrc32C != sum {
			t.Errorf("%s: the checksum is not %d", tt.name, sum)
		}
	}
}

func TestErrors(t *testing.T) {
	w := start(t)
	c := w.open(t, w.impersonating(t), "")
	asBroker := w.open(t, w.base(t), "")
	for _, tt := range []struct {
		client *secretmanager.Client
		name   string
		status int
		reason string
	}{
		{c, db + "/versions/latest", http.StatusBadRequest, ""}, // disabled, and no falling back
		{c, db + "/versions/9", http.StatusNotFound, ""},
		{c, "projects/my-project/secrets/nobody/versions/latest", http.StatusNotFound, ""},
		{c, "projects/my-project/secrets/empty/versions/latest", http.StatusNotFound, ""},
		{c, "projects/another-project/secrets/db/versions/1", http.StatusForbidden, "IAM_PERMISSION_DENIED"},
		{c, europe + "/versions/1", http.StatusBadRequest, ""}, // not at the global endpoint
		{asBroker, db + "/versions/1", http.StatusForbidden, "IAM_PERMISSION_DENIED"},
		{asBroker, "projects/my-project/secrets/nobody/versions/1", http.StatusForbidden, "IAM_PERMISSION_DENIED"},
	} {
		fails(t, tt.client, tt.name, tt.status, tt.reason)
	}
	w.server.Revoke()
	fails(t, c, db+"/versions/1", http.StatusUnauthorized, "ACCESS_TOKEN_EXPIRED")
	for fault, want := range map[string]struct {
		status int
		reason string
	}{
		"throttled":    {http.StatusTooManyRequests, "RATE_LIMIT_EXCEEDED"},
		"api_disabled": {http.StatusForbidden, "SERVICE_DISABLED"},
		"perimeter":    {http.StatusForbidden, "SECURITY_POLICY_VIOLATED"},
	} {
		w.state.Projects["my-project"].Fault = fault
		must(t, w.server.Replace(w.state))
		_, err := w.open(t, w.impersonating(t), "").AccessSecretVersion(t.Context(), &secretmanagerpb.AccessSecretVersionRequest{Name: db + "/versions/1"},
			gax.WithRetry(func() gax.Retryer { return nil }))
		check(t, fault, err, want.status, want.reason)
	}
}

func fails(t *testing.T, c *secretmanager.Client, name string, status int, reason string) {
	t.Helper()
	_, err := access(t, c, name)
	check(t, name, err, status, reason)
}

func check(t *testing.T, what string, err error, status int, reason string) {
	t.Helper()
	var e *apierror.APIError
	if !errors.As(err, &e) {
		t.Errorf("%s: not an error of the API: %v", what, err)
		return
	}
	if e.HTTPCode() != status || e.Reason() != reason {
		t.Errorf("%s: HTTP %d, reason %q, want %d, %q: %v", what, e.HTTPCode(), e.Reason(), status, reason, err)
	}
}

// Google's library exchanges tokens of other providers with the embedded endpoint.
func TestFederation(t *testing.T) {
	w := start(t)
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "token"), []byte("subject"), 0o600))
	config, err := json.Marshal(map[string]any{
		"type": "external_account", "subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "token_url": "https://sts.googleapis.com/v1/token",
		"audience":                          "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/p",
		"credential_source":                 map[string]any{"file": filepath.Join(dir, "token")},
		"service_account_impersonation_url": "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/" + reader + ":generateAccessToken",
	})
	must(t, err)
	creds, err := credentials.DetectDefault(&credentials.DetectOptions{CredentialsJSON: config, Scopes: []string{scope}, Client: w.client})
	must(t, err)
	got, err := access(t, w.open(t, creds, ""), db+"/versions/1")
	if err != nil || string(got.Payload.Data) != "one" {
		t.Errorf("got %v, %v", got.GetName(), err)
	}
}

// Callers without a key, or with a deleted one, get no token.
func TestWrongKey(t *testing.T) {
	w := start(t)
	w.state.ServiceAccounts[broker].PublicKeyPEM = ""
	must(t, w.server.Replace(w.state))
	_, err := w.base(t).Token(t.Context())
	if err == nil || !strings.Contains(err.Error(), "invalid_grant") {
		t.Errorf("got %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
