package keyvault_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"
	"go.uber.org/goleak"

	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/devmode/keyvault"
)

const (
	tenantID     = "11111111-1111-4111-8111-111111111111"
	clientID     = "22222222-2222-4222-8222-222222222222"
	clientSecret = "the-client-secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a Server with TLS, and what its clients need.
type fake struct {
	*keyvault.Server
	secretsFile string
	authority   string
	client      *http.Client // dials the fake, whatever the host is
	logs        *asynctest.Buffer
	clock       *atomic.Int64 // the server's time, in seconds since 1970
}

// start serves the vaults in the YAML text.
func start(t *testing.T, secrets string) *fake {
	t.Helper()
	f := &fake{secretsFile: filepath.Join(t.TempDir(), "secrets.yaml"), logs: &asynctest.Buffer{}, clock: new(atomic.Int64)}
	f.edit(t, secrets)
	f.clock.Store(time.Now().Unix())
	srv, err := keyvault.New(keyvault.Config{
		SecretsFile:  f.secretsFile,
		Logger:       slog.New(slog.NewTextHandler(f.logs, nil)),
		Now:          func() time.Time { return time.Unix(f.clock.Load(), 0) },
		TenantID:     tenantID,
		ClientID:     clientID,
		ClientSecret: clientSecret,
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Server = srv
	certificate, roots := newCertificate(t)
	ts := httptest.NewUnstartedServer(srv)
	ts.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	ts.StartTLS()
	address := ts.Listener.Addr().String()
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
		ForceAttemptHTTP2: true,
	}
	f.client = &http.Client{Transport: transport}
	f.authority = "https://" + address
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		ts.Close()
	})
	return f
}

// edit replaces the secrets file like an editor.
func (f *fake) edit(t *testing.T, secrets string) {
	t.Helper()
	temp := f.secretsFile + "~"
	if err := os.WriteFile(temp, []byte(secrets), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(temp, f.secretsFile); err != nil {
		t.Fatal(err)
	}
}

func (f *fake) clientOptions() policy.ClientOptions {
	return policy.ClientOptions{
		Transport: f.client,
		Cloud:     cloud.Configuration{ActiveDirectoryAuthorityHost: f.authority},
		Retry:     policy.RetryOptions{MaxRetries: -1},
	}
}

func (f *fake) credential(t *testing.T, tenant, client, secret string) azcore.TokenCredential {
	t.Helper()
	cred, err := azidentity.NewClientSecretCredential(tenant, client, secret, &azidentity.ClientSecretCredentialOptions{
		ClientOptions:            f.clientOptions(),
		DisableInstanceDiscovery: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return cred
}

// vault returns a client like the broker's, with challenge verification enabled.
func (f *fake) vault(t *testing.T, name string) *azsecrets.Client {
	t.Helper()
	return f.vaultAs(t, name, f.credential(t, tenantID, clientID, clientSecret))
}

func (f *fake) vaultAs(t *testing.T, name string, cred azcore.TokenCredential) *azsecrets.Client {
	t.Helper()
	client, err := azsecrets.NewClient("https://"+name+".vault.azure.net", cred, &azsecrets.ClientOptions{ClientOptions: f.clientOptions()})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// token returns a token that the fake issued.
func (f *fake) token(t *testing.T) string {
	t.Helper()
	token, err := f.credential(t, tenantID, clientID, clientSecret).GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{"https://vault.azure.net/.default"}})
	if err != nil {
		t.Fatal(err)
	}
	return token.Token
}

// get reads a version of a secret; it must succeed.
func get(t *testing.T, client *azsecrets.Client, name, version string) azsecrets.GetSecretResponse {
	t.Helper()
	resp, err := client.GetSecret(t.Context(), name, version, nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func newCertificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		DNSNames:              []string{"*.vault.azure.net", keyvault.QueueHost},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}
