package azurekv

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func TestOpenFaults(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	blank := providertest.WriteFile(t, "blank", []byte(" \r\n\t"))
	noPEM := providertest.WriteFile(t, "no-pem", []byte(canary))
	badPEM := providertest.WriteFile(t, "bad-pem", []byte("-----BEGIN CERTIFICATE-----\n"+"Q0FOQVJZ\n"+"-----END CERTIFICATE-----\n"))
	ecPEM := providertest.WriteFile(t, "ec-pem", selfSigned(t, ecKey(t), time.Hour))
	huge := providertest.WriteFile(t, "huge", make([]byte, 1<<20+1))
	type azure = Settings
	for name, tc := range map[string]struct {
		change func(*integration.Integration)
		says   []string
	}{
		"no azure section":      {func(in *integration.Integration) { in.Settings = nil }, []string{"azure"}},
		"other kind":            {func(in *integration.Integration) { in.Kind = "OTHER" }, []string{"azure"}},
		"no vaults":             {setAzure(func(a *azure) { a.Vaults = nil }), []string{"azure.vaults"}},
		"vault not https":       {setAzure(func(a *azure) { a.Vaults = []string{"http://" + vaultHost} }), []string{"azure.vaults"}},
		"no tenant":             {setAzure(func(a *azure) { a.TenantID = "" }), []string{"azure.tenant_id"}},
		"odd tenant":            {setAzure(func(a *azure) { a.TenantID = "a/b" }), []string{"azure.tenant_id"}},
		"no client":             {setAzure(func(a *azure) { a.ClientID = "" }), []string{"azure.client_id"}},
		"no authority":          {setAzure(func(a *azure) { a.AuthorityHost = "" }), []string{"azure.authority_host"}},
		"authority http":        {setAzure(func(a *azure) { a.AuthorityHost = "http://" + loginHost }), []string{"azure.authority_host"}},
		"no type":               {setAzure(func(a *azure) { a.Credential.Type = "" }), []string{"azure.credential.type"}},
		"secret not set":        {setAzure(func(a *azure) { a.Credential.ClientSecretFile = "" }), []string{"azure.credential.client_secret_file", "missing"}},
		"secret missing":        {setAzure(func(a *azure) { a.Credential.ClientSecretFile = missing }), []string{"client_secret_file", missing, "does not exist"}},
		"secret blank":          {setAzure(func(a *azure) { a.Credential.ClientSecretFile = blank }), []string{"client_secret_file", blank, "empty"}},
		"secret huge":           {setAzure(func(a *azure) { a.Credential.ClientSecretFile = huge }), []string{"client_secret_file", huge, "larger"}},
		"secret a directory":    {setAzure(func(a *azure) { a.Credential.ClientSecretFile = t.TempDir() }), []string{"client_secret_file", "is not a regular file"}},
		"certificate missing":   {certificate(missing), []string{"certificate_file", missing, "does not exist"}},
		"certificate no PEM":    {certificate(noPEM), []string{"certificate_file", noPEM, "RSA"}},
		"certificate bad PEM":   {certificate(badPEM), []string{"certificate_file", badPEM, "RSA"}},
		"certificate EC":        {certificate(ecPEM), []string{"certificate_file", "RSA"}},
		"token file missing":    {setAzure(func(a *azure) { a.Credential = workload(missing) }), []string{"token_file", missing, "does not exist"}},
		"token file blank":      {setAzure(func(a *azure) { a.Credential = workload(blank) }), []string{"token_file", blank, "empty"}},
		"CA file missing":       {setAzure(func(a *azure) { a.CAFile = missing }), []string{"azure.ca_file", missing}},
		"CA file without certs": {setAzure(func(a *azure) { a.CAFile = noPEM }), []string{"azure.ca_file", noPEM}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			in := f.integration()
			tc.change(in)
			_, err := Opener(f.Config())(t.Context(), in)
			e := f.CheckError(err, secret.ReasonStoreAuthenticationFailed)
			for _, s := range tc.says {
				if !strings.Contains(e.Message, s) {
					t.Errorf("message %q does not say %q", e.Message, s)
				}
			}
		})
	}
}

func setAzure(change func(*Settings)) func(*integration.Integration) {
	return func(in *integration.Integration) { change(settingsOf(in)) }
}

func certificate(file string) func(*integration.Integration) {
	return setAzure(func(a *Settings) {
		a.Credential = Credential{Type: ClientCertificate, CertificateFile: file}
	})
}

func workload(file string) Credential {
	return Credential{Type: WorkloadIdentity, TokenFile: file}
}

func TestClientSecret(t *testing.T) {
	for name, content := range map[string]string{"plain": testSecret, "padded": " " + testSecret + "\r\n", "with a mark": "\ufeff" + testSecret} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			in := f.integration()
			settingsOf(in).Credential.ClientSecretFile = providertest.WriteFile(t, "secret", []byte(content))
			f.Fetch(f.open(f.Config(), in), vaultURL+"::db")
			form := f.forms[0]
			if form.Get("client_secret") != testSecret || form.Get("client_id") != clientID || !strings.Contains(form.Get("scope"), "https://vault.azure.net/.default") {
				t.Errorf("token request %v", form)
			}
		})
	}
}

func TestClientCertificate(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	providertest.Must(t, err)
	f := newFake(t)
	in := f.integration()
	certificate(providertest.WriteFile(t, "cert.pem", selfSigned(t, key, time.Hour)))(in)
	f.Fetch(f.open(f.Config(), in), vaultURL+"::db")
	if form := f.forms[0]; strings.Count(form.Get("client_assertion"), ".") != 2 || form.Get("client_secret") != "" {
		t.Errorf("token request %v", form)
	}
}

// TestSendCertificateChain: the assertion's header has the certificates (x5c) only if the
// setting asks for them.
func TestSendCertificateChain(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	providertest.Must(t, err)
	file := providertest.WriteFile(t, "cert.pem", selfSigned(t, key, time.Hour))
	for _, send := range []bool{false, true} {
		f := newFake(t)
		in := f.integration()
		certificate(file)(in)
		settingsOf(in).Credential.SendCertificateChain = send
		f.Fetch(f.open(f.Config(), in), vaultURL+"::db")
		first, _, _ := strings.Cut(f.forms[0].Get("client_assertion"), ".")
		b, err := base64.RawURLEncoding.DecodeString(first)
		providertest.Must(t, err)
		var header struct{ X5c []string }
		providertest.Must(t, json.Unmarshal(b, &header))
		if (len(header.X5c) == 1) != send {
			t.Errorf("send %t: the header has %d certificates", send, len(header.X5c))
		}
	}
}

func TestWorkloadIdentityReadsItsFileEachTime(t *testing.T) {
	file := providertest.WriteFile(t, "token", []byte("federated-1\n"))
	f := newFake(t)
	in := f.integration()
	settingsOf(in).Credential = workload(file)
	s := f.open(f.Config(), in)
	// A wrong token is not kept.
	f.token = func(w http.ResponseWriter, r *http.Request) {
		if r.PostForm.Get("client_assertion") == "federated-1" {
			providertest.WriteJSON(w, http.StatusUnauthorized, `{"error":"invalid_client","error_description":"AADSTS700024: `+canary+`"}`)
			return
		}
		f.issue(w)
	}
	e := f.Fails(t.Context(), s, vaultURL+"::db", secret.ReasonStoreAuthenticationFailed)
	if !strings.Contains(e.Message, "azure.credential.token_file") {
		t.Errorf("message %q", e.Message)
	}
	providertest.Must(t, os.Remove(file))
	e = f.Fails(t.Context(), s, vaultURL+"::db", secret.ReasonStoreAuthenticationFailed)
	if !strings.Contains(e.Message, file) || !strings.Contains(e.Message, "does not exist") {
		t.Errorf("message %q", e.Message)
	}
	providertest.Must(t, os.WriteFile(file, []byte("federated-2\n"), 0o600))
	f.Fetch(s, vaultURL+"::db")
	if got := f.forms[len(f.forms)-1].Get("client_assertion"); got != "federated-2" {
		t.Errorf("assertion %q", got)
	}
}

func TestManagedIdentity(t *testing.T) {
	clearAzureEnv(t)
	// The SDK's cache of these tokens is process-wide, so each case has an ID of its
	// own.
	for i, tc := range []struct {
		name   string
		status int
		want   secret.Reason
	}{
		{"granted", http.StatusOK, ""},
		{"not assigned", http.StatusBadRequest, secret.ReasonStoreAuthenticationFailed},
		{"failing", http.StatusInternalServerError, secret.ReasonStoreUnavailable},
		{"absent", 0, secret.ReasonStoreUnavailable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFake(t)
			id := fmt.Sprintf("00000000-0000-0000-0000-00000000000%d", i)
			imds := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if tc.status != http.StatusOK || r.Header.Get("Metadata") != "true" || r.URL.Query().Get("client_id") != id {
					providertest.WriteJSON(w, tc.status, `{"error":"invalid_request","error_description":"`+canary+`"}`)
					return
				}
				providertest.WriteJSON(w, http.StatusOK, `{"token_type":"Bearer","expires_in":"3600","resource":"https://vault.azure.net","access_token":"access-token-0"}`)
			}))
			defer imds.Close()
			f.Dial[imdsHost] = imds.Listener.Addr().String()
			if tc.status == 0 {
				f.Dial[imdsHost] = providertest.ClosedPort(t)
			}
			in := f.integration()
			settingsOf(in).TenantID, settingsOf(in).ClientID = "", id
			settingsOf(in).Credential = Credential{Type: ManagedIdentity}
			s := f.open(f.Config(), in)
			if tc.want == "" {
				f.Fetch(s, vaultURL+"::db")
			} else {
				f.Fails(t.Context(), s, vaultURL+"::db", tc.want)
			}
			if len(f.forms) != 0 {
				t.Error("a managed identity asked the login authority")
			}
		})
	}
}

func TestManagedIdentityWithoutClientID(t *testing.T) {
	clearAzureEnv(t)
	f := newFake(t)
	in := f.integration()
	settingsOf(in).TenantID, settingsOf(in).ClientID = "", ""
	settingsOf(in).Credential = Credential{Type: ManagedIdentity}
	f.open(f.Config(), in)
}

func TestServiceFabricIsRefused(t *testing.T) {
	clearAzureEnv(t)
	t.Setenv("IDENTITY_ENDPOINT", "https://localhost:2377/x")
	t.Setenv("IDENTITY_HEADER", "h")
	t.Setenv("IDENTITY_SERVER_THUMBPRINT", strings.Repeat("ab", 20))
	f := newFake(t)
	in := f.integration()
	settingsOf(in).Credential = Credential{Type: ManagedIdentity}
	_, err := Opener(f.Config())(t.Context(), in)
	f.CheckError(err, secret.ReasonStoreAuthenticationFailed)
}

func TestDefaultCredential(t *testing.T) {
	clearAzureEnv(t)
	f := newFake(t)
	in := f.integration()
	settingsOf(in).TenantID, settingsOf(in).ClientID = "", ""
	settingsOf(in).Credential = Credential{Type: DefaultCredential}

	t.Setenv("AZURE_TOKEN_CREDENTIALS", "WorkloadIdentityCredential") // which is not configured
	e := f.Fails(t.Context(), f.open(f.Config(), in), vaultURL+"::db", secret.ReasonStoreAuthenticationFailed)
	if !strings.Contains(e.Message, "azure.credential.type") {
		t.Errorf("message %q", e.Message)
	}

	t.Setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
	t.Setenv("AZURE_TENANT_ID", tenantID)
	t.Setenv("AZURE_CLIENT_ID", clientID)
	t.Setenv("AZURE_CLIENT_SECRET", testSecret)
	f.Fetch(f.open(f.Config(), in), vaultURL+"::db")

	t.Setenv("AZURE_TOKEN_CREDENTIALS", "nonsense")
	_, err := Opener(f.Config())(t.Context(), in)
	f.CheckError(err, secret.ReasonStoreAuthenticationFailed)
}

// TestLoginAnswers puts the canary everywhere in a response where text is possible.
func TestLoginAnswers(t *testing.T) {
	refusal := func(code string) string {
		return fmt.Sprintf(`{"error":"invalid_client","error_description":"%s: %s %s"}`, code, canary, testSecret)
	}
	for name, tc := range map[string]struct {
		status int
		header string
		body   string
		want   secret.Reason
		says   string
		retry  time.Duration
	}{
		"wrong secret":       {401, "", refusal("AADSTS7000215"), secret.ReasonStoreAuthenticationFailed, "AADSTS7000215: the client secret is wrong", 0},
		"expired secret":     {401, "", refusal("AADSTS7000222"), secret.ReasonStoreAuthenticationFailed, "AADSTS7000222: the client secret has expired", 0},
		"unknown client":     {400, "", refusal("AADSTS700016"), secret.ReasonStoreAuthenticationFailed, "AADSTS700016", 0},
		"unknown tenant":     {400, "", refusal("AADSTS90002"), secret.ReasonStoreAuthenticationFailed, "azure.tenant_id", 0},
		"code without text":  {400, "", refusal("AADSTS123456"), secret.ReasonStoreAuthenticationFailed, "refuses the integration's credential: AADSTS123456", 0},
		"no code":            {401, "", `"` + canary + `"`, secret.ReasonStoreAuthenticationFailed, "HTTP 401", 0},
		"wrong place":        {404, "", "<p>" + canary, secret.ReasonStoreAuthenticationFailed, "HTTP 404", 0},
		"throttled":          {429, "Retry-After: 3", refusal("AADSTS50196"), secret.ReasonStoreUnavailable, "HTTP 429", 3 * time.Second},
		"failing":            {503, "", canary, secret.ReasonStoreUnavailable, "HTTP 503", 0},
		"redirect":           {307, "Location: https://" + strangers, canary, secret.ReasonStoreUnavailable, "redirect", 0},
		"garbage":            {200, "", canary, secret.ReasonStoreUnavailable, "something other", 0},
		"token in odd shape": {200, "", `{"token_type":"Bearer","expires_in":{},"access_token":"access-token-9"}`, secret.ReasonStoreUnavailable, "something other", 0},
		"no token":           {200, "", `{"token_type":"Bearer","expires_in":3600}`, secret.ReasonStoreUnavailable, "something other", 0},
		"huge":               {200, "", strings.Repeat(canary, maxBody/len(canary)+1), secret.ReasonStoreUnavailable, "something other than an access token", 0},
		"truncated":          {200, "Content-Length: 9999", canary, secret.ReasonStoreUnavailable, "closed the connection", 0},
	} {
		for _, step := range []string{"token", "discovery"} {
			t.Run(name+"/"+step, func(t *testing.T) {
				t.Parallel()
				f := newFake(t)
				bad := func(w http.ResponseWriter, _ *http.Request) {
					if k, v, ok := strings.Cut(tc.header, ": "); ok {
						w.Header().Set(k, v)
					}
					w.WriteHeader(tc.status)
					_, _ = w.Write([]byte(tc.body))
				}
				if f.token = bad; step == "discovery" {
					f.serve(loginHost, f.cert, bad)
				}
				s := f.open(f.Config(), f.integration())
				e := f.Fails(t.Context(), s, vaultURL+"::db", tc.want)
				if !strings.Contains(e.Message, tc.says) {
					t.Errorf("message %q does not say %q", e.Message, tc.says)
				}
				if e.RetryAfter != tc.retry {
					t.Errorf("retry after %v, want %v", e.RetryAfter, tc.retry)
				}
				if len(f.elsewhere) != 0 {
					t.Error("the redirect was followed")
				}
			})
		}
	}
}

// clearAzureEnv unsets the variables that would redirect the SDK's credentials.
func clearAzureEnv(t *testing.T) {
	for _, name := range []string{
		"IDENTITY_ENDPOINT", "IDENTITY_HEADER", "IDENTITY_SERVER_THUMBPRINT", "IMDS_ENDPOINT", "MSI_ENDPOINT", "MSI_SECRET",
		"AZURE_TOKEN_CREDENTIALS", "AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_FEDERATED_TOKEN_FILE",
	} {
		t.Setenv(name, "") // restores the variable after the test
		providertest.Must(t, os.Unsetenv(name))
	}
}

// selfSigned returns a certificate and its key in PEM form.
func selfSigned(t *testing.T, key crypto.Signer, valid time.Duration) []byte {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "broker"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(valid),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	providertest.Must(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	providertest.Must(t, err)
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})...)
}
