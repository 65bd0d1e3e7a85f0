package keyvault_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

func TestClientSecretRefused(t *testing.T) {
	f := start(t, sampleVaults)
	tests := []struct {
		name, tenant, client, secret string
		want                         string
	}{
		{"wrong secret", tenantID, clientID, "wrong", "AADSTS7000215: Invalid client secret provided."},
		{"prefix of the secret", tenantID, clientID, clientSecret[:5], "AADSTS7000215: Invalid client secret provided."},
		{"unknown client", tenantID, tenantID, clientSecret, "AADSTS700016: Application with identifier '" + tenantID},
		{"unknown tenant", clientID, clientID, clientSecret, "AADSTS90002: Tenant '" + clientID},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := f.credential(t, tt.tenant, tt.client, tt.secret).GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{"https://vault.azure.net/.default"}})
			if _, ok := errors.AsType[*azidentity.AuthenticationFailedError](err); !ok || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want an AuthenticationFailedError with %q", err, tt.want)
			}
		})
	}
}

func TestCertificateCredential(t *testing.T) {
	f := start(t, sampleVaults)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	cred, err := azidentity.NewClientCertificateCredential(tenantID, clientID, []*x509.Certificate{leaf}, key, &azidentity.ClientCertificateCredentialOptions{
		ClientOptions:            f.clientOptions(),
		DisableInstanceDiscovery: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := *get(t, f.vaultAs(t, "my-vault", cred), "mixed-case", "").Value; got != "mixed" {
		t.Errorf("value = %q", got)
	}
}

func TestFederatedToken(t *testing.T) {
	f := start(t, sampleVaults)
	in, ago := time.Now().Add(time.Hour).Unix(), time.Now().Add(-time.Hour).Unix()
	tests := []struct {
		name, token string
		want        string // empty for success
	}{
		{"subject", newJWT(t, map[string]any{"iss": "https://issuer.example.org", "sub": clientID, "exp": in}), ""},
		{"issuer", newJWT(t, map[string]any{"iss": clientID, "sub": "someone", "exp": in}), ""},
		{"someone else", newJWT(t, map[string]any{"iss": "https://issuer.example.org", "sub": "someone", "exp": in}), "AADSTS700213"},
		{"expired", newJWT(t, map[string]any{"sub": clientID, "exp": ago}), "AADSTS700024"},
		{"without expiry", newJWT(t, map[string]any{"sub": clientID}), "AADSTS700024"},
		{"not three parts", "a.b", "AADSTS50027"},
		{"not base64", "a.!.c", "AADSTS50027"},
		{"not JSON", "a.YQ.c", "AADSTS50027"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "token")
			if err := os.WriteFile(file, []byte(tt.token), 0o600); err != nil {
				t.Fatal(err)
			}
			cred, err := azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{
				ClientOptions:            f.clientOptions(),
				TenantID:                 tenantID,
				ClientID:                 clientID,
				TokenFilePath:            file,
				DisableInstanceDiscovery: true,
			})
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.vaultAs(t, "my-vault", cred).GetSecret(t.Context(), "db-secret", "", nil)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error is %v, want %q", err, tt.want)
			}
		})
	}
}

// newJWT returns a token that is signed with a throwaway key.
func newJWT(t *testing.T, claims map[string]any) string {
	t.Helper()
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := ecdsa.SignASN1(rand.Reader, key, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	enc := base64.RawURLEncoding.EncodeToString
	return enc([]byte(`{"alg":"ES256"}`)) + "." + enc(payload) + "." + enc(signature)
}

func TestTokenEndpoint(t *testing.T) {
	f := start(t, sampleVaults)
	good := func() url.Values {
		return url.Values{
			"grant_type":    {"client_credentials"},
			"client_id":     {strings.ToUpper(clientID)},
			"client_secret": {clientSecret},
			"scope":         {"https://vault.azure.net/.default openid"},
		}
	}
	tests := []struct {
		name   string
		change func(url.Values)
		status int
		want   string
	}{
		{"good", func(url.Values) {}, 200, `"token_type":"Bearer"`},
		{"other grant", func(v url.Values) { v.Set("grant_type", "password") }, 400, "AADSTS70003:"},
		{"other resource", func(v url.Values) { v.Set("scope", "https://graph.microsoft.com/.default") }, 400, "AADSTS500011:"},
		{"wrong secret", func(v url.Values) { v.Set("client_secret", "wrong") }, 401, `"error_codes":[7000215]`},
		{"no proof", func(v url.Values) { v.Del("client_secret") }, 401, "AADSTS7000216:"},
		{"assertion of another type", func(v url.Values) {
			v.Del("client_secret")
			v.Set("client_assertion", newJWT(t, map[string]any{"sub": clientID, "exp": time.Now().Add(time.Hour).Unix()}))
			v.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:saml2-bearer")
		}, 401, "AADSTS7000216:"},
		{"too long", func(v url.Values) { v.Set("client_assertion", strings.Repeat("x", 65<<10)) }, 400, "AADSTS900144:"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			form := good()
			tt.change(form)
			status, body := f.post(t, tenantID, form)
			if status != tt.status || !strings.Contains(body, tt.want) {
				t.Errorf("status %d with %q, want %d with %q", status, body, tt.status, tt.want)
			}
			if strings.Contains(body, clientSecret) {
				t.Error("the answer contains the client secret")
			}
		})
	}
	t.Run("two tokens differ", func(t *testing.T) {
		_, one := f.post(t, tenantID, good())
		_, two := f.post(t, tenantID, good())
		if one == two {
			t.Error("the same token was issued twice")
		}
	})
}

func (f *fake) post(t *testing.T, tenant string, form url.Values) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), "POST", fmt.Sprintf("%s/%s/oauth2/v2.0/token", f.authority, tenant), strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := f.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestDiscovery(t *testing.T) {
	f := start(t, sampleVaults)
	resp, body := f.request(t, "GET", f.authority+"/"+tenantID+"/v2.0/.well-known/openid-configuration", "")
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("status = %d", resp.StatusCode)
	}
	var got struct {
		Issuer                string
		TokenEndpoint         string `json:"token_endpoint"`
		AuthorizationEndpoint string `json:"authorization_endpoint"`
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	base := f.authority + "/" + tenantID
	if got.Issuer != base+"/v2.0" || got.TokenEndpoint != base+"/oauth2/v2.0/token" || got.AuthorizationEndpoint != base+"/oauth2/v2.0/authorize" {
		t.Errorf("discovery document %+v does not refer to %s", got, base)
	}
}

func TestLoginUnknownPath(t *testing.T) {
	f := start(t, sampleVaults)
	for _, path := range []string{"/", "/common/discovery/instance", "/secrets/db-secret", "/" + tenantID + "/oauth2/v2.0/authorize"} {
		if resp, _ := f.request(t, "GET", f.authority+path, ""); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: status = %d, want 404", path, resp.StatusCode)
		}
	}
}
