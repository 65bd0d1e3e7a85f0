package azurekv

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	tenantID   = "0f0f0f0f-1111-2222-3333-444444444444"
	clientID   = "99999999-8888-7777-6666-555555555555"
	testSecret = "the-client-secret-of-the-test"
	canary     = providertest.Canary
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

// fake is a vault, a login authority and an unrelated server, all with TLS
// certificates of a CA that only integrations with its CAFile trust.
type fake struct {
	*providertest.Env
	cert tls.Certificate
	// foreign is of the same CA, for a name that no client requests; expired has
	// expired.
	foreign, expired tls.Certificate

	mu        sync.Mutex
	issued    int             // tokens issued
	refused   map[string]bool // tokens that the vaults refuse
	reads     int             // requests to a vault with a token
	probes    int             // requests to a vault without one
	elsewhere []*http.Request // requests that reached the unrelated server
	forms     []url.Values    // token requests

	// vault handles an authorized read; token handles a token request; challenge is
	// the vaults' WWW-Authenticate header. They are set before the first request.
	vault     http.HandlerFunc
	token     http.HandlerFunc
	challenge string
	// discovery is the authority's discovery document; empty means the usual one.
	discovery string
}

func newFake(t testing.TB) *fake {
	t.Helper()
	f := &fake{
		Env: providertest.NewEnv(t, testSecret, "access-token-", "Bearer"), refused: map[string]bool{},
		challenge: fmt.Sprintf(`Bearer authorization="https://%s/%s", resource="https://vault.azure.net"`, loginHost, tenantID),
	}
	f.vault = func(w http.ResponseWriter, r *http.Request) { f.answer(w, r, "", 0) }
	f.token = func(w http.ResponseWriter, _ *http.Request) { f.issue(w) }
	f.cert = f.Certificate("*.vault.azure.net", loginHost, "login.microsoftonline.com")
	f.foreign, f.expired = f.Certificate("elsewhere.example.test"), f.Expired("*.vault.azure.net")
	for host, h := range map[string]http.HandlerFunc{
		vaultHost: f.serveVault, otherHost: f.serveVault, loginHost: f.serveLogin, strangers: f.serveStranger,
	} {
		f.serve(host, f.cert, h)
	}
	return f
}

func (f *fake) serve(host string, cert tls.Certificate, h http.HandlerFunc) { f.Serve(cert, h, host) }

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
		providertest.WriteJSON(w, http.StatusUnauthorized, `{"error":{"code":"Unauthorized","message":"AKV10000"}}`)
		return
	}
	f.vault(w, r)
}

// answer sends a successful response to a read, with more attributes if given.
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
	providertest.WriteJSON(w, status, fmt.Sprintf(`{"id":%q,"value":%q,"attributes":{"enabled":true%s}}`, id, canary, attributes))
}

func (f *fake) serveLogin(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/.well-known/openid-configuration") {
		if f.discovery != "" {
			providertest.WriteJSON(w, http.StatusOK, f.discovery)
			return
		}
		base := "https://" + loginHost + "/" + tenantID
		providertest.WriteJSON(w, http.StatusOK, fmt.Sprintf(`{"issuer":"%s/v2.0","authorization_endpoint":"%s/authorize","token_endpoint":"%s/token"}`, base, base, base))
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
	providertest.WriteJSON(w, http.StatusOK, fmt.Sprintf(`{"token_type":"Bearer","expires_in":3600,"access_token":"access-token-%d"}`, n))
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

// integration returns an integration that logs in to the fake with a client secret.
func (f *fake) integration() *integration.Integration {
	return &integration.Integration{
		ID: "it", Revision: "1", Kind: secret.KindAzureKeyVault,
		Settings: &Settings{
			TenantID: tenantID, ClientID: clientID,
			Credential: Credential{
				Type: ClientSecret, ClientSecretFile: providertest.WriteFile(f, "secret", []byte(testSecret+"\r\n")),
			},
			Vaults: []string{vaultURL, otherURL}, CAFile: f.CAFile,
			AuthorityHost: "https://" + loginHost + "/", DisableInstanceDiscovery: true, Dial: f.Dial,
		},
	}
}

func (f *fake) open(cfg provider.Config, in *integration.Integration) *store {
	f.Helper()
	return f.Open(Opener(cfg), in).(*store)
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	providertest.Must(t, err)
	return key
}
