package azurekv

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func TestVaultClientSendsToVaultsOnly(t *testing.T) {
	f := newFake(t)
	s := f.open(f.Config(), f.integration())
	for _, to := range []string{
		"https://" + strangers + "/secrets/db", "https://" + loginHost + "/", "http://" + vaultHost + "/secrets/db",
		"https://" + vaultHost + ":8443/secrets/db", "https://" + vaultHost + "." + strangers + "/", "https://127.0.0.1/",
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, to, strings.NewReader("body"))
		providertest.Must(t, err)
		r.Header.Set("Authorization", "Bearer access-token-0")
		var stopped *egress.OriginError
		if _, err := s.vaultHTTP.Do(r); !errors.As(err, &stopped) {
			t.Errorf("%s: %v", to, err)
		}
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, vaultURL+"/secrets/db", nil)
	providertest.Must(t, err)
	r.Host = strangers
	var stopped *egress.OriginError
	if _, err := s.vaultHTTP.Do(r); !errors.As(err, &stopped) {
		t.Errorf("another Host header: %v", err)
	}
	if len(f.elsewhere) != 0 || f.reads != 0 {
		t.Errorf("%d requests reached the stranger, %d a vault", len(f.elsewhere), f.reads)
	}
}

func TestLoginOrigins(t *testing.T) {
	public := []string{
		"https://login.microsoft.com", "https://login.microsoftonline.com", "https://login.windows.net", "https://sts.windows.net",
	}
	for name, tc := range map[string]struct {
		kind      CredentialType
		authority string
		offline   bool
		env       map[string]string
		want      []string
	}{
		"public":            {ClientSecret, "https://login.microsoftonline.com/", false, nil, public},
		"china":             {ClientCertificate, "https://login.chinacloudapi.cn", false, nil, []string{"https://login.chinacloudapi.cn", "https://login.partner.microsoftonline.cn"}},
		"government":        {WorkloadIdentity, "https://LOGIN.microsoftonline.us", false, nil, []string{"https://login.microsoftonline.us", "https://login.usgovcloudapi.net"}},
		"private":           {ClientSecret, "https://login.example.test:443/", true, nil, []string{"https://login.example.test"}},
		"private discovery": {ClientSecret, "https://login.example.test:8443/", false, nil, []string{"https://login.example.test:8443", "https://login.microsoftonline.com"}},
		"machine":           {ManagedIdentity, "https://login.microsoftonline.com/", false, nil, []string{arcOrigin, imdsOrigin}},
		"app service": {
			ManagedIdentity, "https://login.microsoftonline.com/", false,
			map[string]string{"IDENTITY_ENDPOINT": "http://127.0.0.1:41741/msi/token", "IDENTITY_HEADER": "h"},
			[]string{"http://127.0.0.1:41741"},
		},
		"azure ml": {
			ManagedIdentity, "https://login.microsoftonline.com/", false,
			map[string]string{"MSI_ENDPOINT": "http://localhost:4000/x"}, []string{"http://localhost:4000"},
		},
		"arc": {
			ManagedIdentity, "https://login.microsoftonline.com/", false,
			map[string]string{"IDENTITY_ENDPOINT": "http://localhost:40342/x", "IMDS_ENDPOINT": "http://localhost:40342"},
			[]string{imdsOrigin, "http://localhost:40342"},
		},
		"default": {DefaultCredential, "https://login.microsoftonline.com/", false, nil, append([]string{arcOrigin, imdsOrigin}, public...)},
	} {
		t.Run(name, func(t *testing.T) {
			clearAzureEnv(t)
			for k, v := range tc.env {
				t.Setenv(k, v)
			}
			a := &Settings{
				AuthorityHost: tc.authority, DisableInstanceDiscovery: tc.offline, Credential: Credential{Type: tc.kind},
			}
			c := newLoginClient(provider.Config{}, &integration.Integration{Settings: a}, a.identity(), nil)
			got := c.Transport.(*recorder).next.Origins()
			slices.Sort(tc.want)
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestTokenEndpointElsewhere: an attacker who controls the discovery document does
// not receive the client secret.
func TestTokenEndpointElsewhere(t *testing.T) {
	f := newFake(t)
	in := f.integration()
	s := f.open(f.Config(), in)
	f.discovery = `{"issuer":"https://` + loginHost + `/x","authorization_endpoint":"https://` + loginHost + `/a","token_endpoint":"https://` + strangers + `/token"}`
	e := f.Fails(t.Context(), s, vaultURL+"::db", secret.ReasonStoreUnavailable)
	if !strings.Contains(e.Message, "does not list") {
		t.Errorf("message %q", e.Message)
	}
	if len(f.elsewhere) != 0 {
		t.Error("a request reached the stranger")
	}
}

func TestInstanceDiscovery(t *testing.T) {
	f := newFake(t)
	asked := make(chan string, 8)
	f.serve("login.microsoftonline.com", f.cert, func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		providertest.WriteJSON(w, http.StatusOK, fmt.Sprintf(`{"tenant_discovery_endpoint":"https://%s/%s/v2.0/.well-known/openid-configuration","metadata":[]}`, loginHost, tenantID))
	})
	in := f.integration()
	settingsOf(in).DisableInstanceDiscovery = false
	f.Fetch(f.open(f.Config(), in), vaultURL+"::db")
	if got := <-asked; got != "/common/discovery/instance" {
		t.Errorf("asked for %s", got)
	}
}

func TestTransportBounds(t *testing.T) {
	f := newFake(t)
	proto := make(chan string, 1)
	f.vault = func(w http.ResponseWriter, r *http.Request) {
		proto <- fmt.Sprint(r.Proto, " to ", r.TLS.ServerName)
		f.answer(w, r, "", 0)
	}
	s := f.open(f.Config(), f.integration())
	f.Fetch(s, vaultURL+"::db")
	if got, want := <-proto, "HTTP/2.0 to "+vaultHost; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for _, c := range []*http.Client{s.vaultHTTP, s.http} {
		tr := c.Transport.(*recorder).next.Base()
		if tr.TLSClientConfig.MinVersion < tls.VersionTLS12 || tr.TLSClientConfig.InsecureSkipVerify || tr.TLSClientConfig.ServerName != "" {
			t.Errorf("TLS: %+v", tr.TLSClientConfig)
		}
		if tr.ResponseHeaderTimeout == 0 || tr.TLSHandshakeTimeout == 0 || tr.MaxResponseHeaderBytes == 0 || tr.IdleConnTimeout == 0 {
			t.Error("a limit is left open")
		}
	}
	if s.vaultHTTP.Transport == s.http.Transport {
		t.Error("vaults and login authority share a transport")
	}
}

func TestProxy(t *testing.T) {
	f := newFake(t)
	// Only connections without an entry in the dial table use the proxy. The TLS
	// connection inside the tunnel ends at the vault.
	targets := maps.Clone(f.Dial)
	delete(f.Dial, vaultHost)
	asked := make(chan string, 8)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.Host
		host, _, _ := net.SplitHostPort(r.Host)
		tunnel(t, w, targets[host])
	}))
	defer proxy.Close()
	proxyURL, err := url.Parse(proxy.URL)
	providertest.Must(t, err)
	cfg := f.Config()
	cfg.Proxy = http.ProxyURL(proxyURL)
	s := f.open(cfg, f.integration())
	f.Fetch(s, vaultURL+"::db")
	f.Fetch(s, otherURL+"::db")
	if got := <-asked; got != "CONNECT "+vaultHost+":443" || len(asked) != 0 {
		t.Errorf("%s went through the proxy, and %d more", got, len(asked))
	}
	// The metadata service uses plain HTTP, so a proxy would see the token.
	a := &Settings{Credential: Credential{Type: ManagedIdentity}}
	login := newLoginClient(cfg, &integration.Integration{Settings: a}, a.identity(), nil)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, imdsOrigin+"/metadata/identity/oauth2/token", nil)
	providertest.Must(t, err)
	if u, err := login.Transport.(*recorder).next.Base().Proxy(r); u != nil || err != nil {
		t.Errorf("the metadata service is asked through %v, %v", u, err)
	}
	s.vaultHTTP.CloseIdleConnections()
}

// tunnel answers a CONNECT and copies bytes to and from target until one side closes
// its connection.
func tunnel(t *testing.T, w http.ResponseWriter, target string) {
	up, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", target)
	if err != nil {
		t.Error(err)
		return
	}
	down, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	_, _ = io.WriteString(down, "HTTP/1.1 200 OK\r\n\r\n")
	go func() {
		_, _ = io.Copy(up, down)
		_ = up.Close()
	}()
	_, _ = io.Copy(down, up)
	_ = down.Close()
}
