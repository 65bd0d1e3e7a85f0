package vaultkv

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
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider/providertest"
)

// vaultVersion is the version in tools/peers/vault/go.mod, and part of the name of
// the cached server binary.
const vaultVersion = "1.21.4"

// peer is a real Vault server: HashiCorp's own core, KV engine and auth methods.
type peer struct {
	t       testing.TB
	addr    string
	root    string
	caFile  string // the root of its certificate, for example.com
	client  *http.Client
	certPEM []byte // certificate and key, which the server also accepts from clients
}

// startPeer builds the server into the user's cache unless it is there, and starts
// it. It runs only if TEST_PEERS is set: make test-peers.
func startPeer(t testing.TB) *peer {
	t.Helper()
	if os.Getenv("TEST_PEERS") == "" {
		t.Skip("needs a Vault server, which make test-peers builds")
	}
	certPEM, keyPEM := selfSigned(t)
	p := &peer{t: t, caFile: providertest.WriteFile(t, "peer-ca.pem", string(certPEM)), certPEM: append(bytes.Clone(certPEM), keyPEM...)}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), buildPeer(t), "-cert", p.caFile, "-key", providertest.WriteFile(t, "peer-key.pem", string(keyPEM)))
	stdin, err := cmd.StdinPipe()
	providertest.Must(t, err)
	stdout, err := cmd.StdoutPipe()
	providertest.Must(t, err)
	logs := &providertest.Log{}
	cmd.Stderr = logs
	providertest.Must(t, cmd.Start())
	t.Cleanup(func() { // the server exits at the end of its standard input
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Logf("the server: %v\n%s", err, logs.String())
		}
	})
	var at struct {
		Address   string `json:"address"`
		RootToken string `json:"root_token"`
	}
	providertest.Must(t, json.NewDecoder(stdout).Decode(&at))
	p.addr, p.root = at.Address, at.RootToken
	p.client = &http.Client{Transport: p.transport()}
	t.Cleanup(p.client.CloseIdleConnections)
	return p
}

func buildPeer(t testing.TB) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	providertest.Must(t, err)
	server := filepath.Join(cache, "secretbroker-peers", "vault-"+vaultVersion)
	build := exec.CommandContext(t.Context(), "go", "build", "-o", server, ".")
	build.Dir = "../../../tools/peers/vault"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return server
}

func selfSigned(t testing.TB) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	providertest.Must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "example.com"}, DNSNames: []string{"example.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	providertest.Must(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	providertest.Must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

func (p *peer) transport() *http.Transport {
	roots := x509.NewCertPool()
	ca, err := os.ReadFile(p.caFile)
	providertest.Must(p.t, err)
	roots.AppendCertsFromPEM(ca)
	return &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, p.addr)
		},
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	}
}

// as sends a request with the root token.
func (p *peer) as(method, path, body string) map[string]any {
	p.t.Helper()
	status, answer := p.try(method, path, body)
	if status >= 300 {
		p.t.Fatalf("%s %s: HTTP %d %v", method, path, status, answer)
	}
	return answer
}

func (p *peer) try(method, path, body string) (status int, answer map[string]any) {
	p.t.Helper()
	r, err := http.NewRequestWithContext(context.WithoutCancel(p.t.Context()), method, address+"/v1/"+path, bytes.NewReader([]byte(body)))
	providertest.Must(p.t, err)
	r.Header.Set("X-Vault-Token", p.root)
	resp, err := p.client.Do(r)
	providertest.Must(p.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	providertest.Must(p.t, err)
	_ = json.Unmarshal(b, &answer)
	return resp.StatusCode, answer
}

// policy is the policy for an integration in docs/integrations/hashicorp-vault.md.
const policy = `
path "secret/data/*" { capabilities = ["read"] }
path "secret/data/forbidden-*" { capabilities = ["deny"] }
path "legacy/*" { capabilities = ["read"] }
path "team/deep/kv/data/*" { capabilities = ["read"] }
path "database/creds/*" { capabilities = ["read"] }
path "sys/leases/renew" { capabilities = ["update"] }
`

// prepare mounts what integration expects and returns the ID of AppRole's role.
func (p *peer) prepare(tokenTTL string) (role string) {
	p.t.Helper()
	for path, body := range map[string]string{
		"secret": `{"type":"kv","options":{"version":"2"}}`, "legacy": `{"type":"kv","options":{"version":"1"}}`,
		"team/deep/kv": `{"type":"kv","options":{"version":"2"}}`,
		"database":     `{"type":"credentials","config":{"default_lease_ttl":"30s","max_lease_ttl":"60s"}}`,
	} {
		p.as("POST", "sys/mounts/"+path, body)
	}
	p.permit("")
	p.as("POST", "sys/auth/approle", `{"type":"approle"}`)
	p.as("POST", "auth/approle/role/broker", `{"token_policies":["broker"],"token_ttl":"`+tokenTTL+`"}`)
	role = p.as("GET", "auth/approle/role/broker/role-id", "")["data"].(map[string]any)["role_id"].(string)
	p.eventually("POST", "secret/data/first", `{"data":{"ready":"yes"}}`)
	p.eventually("POST", "team/deep/kv/data/first", `{"data":{"ready":"yes"}}`)
	return role
}

// secretID returns a new secret ID of AppRole.
func (p *peer) secretID() string {
	p.t.Helper()
	return p.as("POST", "auth/approle/role/broker/secret-id", "{}")["data"].(map[string]any)["secret_id"].(string)
}

// eventually repeats a request while the KV engine upgrades a new mount to versioned
// secrets.
func (p *peer) eventually(method, path, body string) {
	p.t.Helper()
	for range 100 {
		if status, _ := p.try(method, path, body); status < 300 {
			return
		}
		<-time.After(50 * time.Millisecond)
	}
	p.t.Fatalf("%s %s: never succeeds", method, path)
}

// newFront returns a front before the server.
func (p *peer) newFront(t testing.TB) *front {
	to, err := url.Parse(address)
	providertest.Must(p.t, err)
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport: p.transport(),
	}
	t.Cleanup(proxy.Transport.(*http.Transport).CloseIdleConnections)
	return newFront(t, proxy)
}

// clear deletes all secrets below secret/ and restores the policy.
func (p *peer) clear() {
	p.t.Helper()
	status, answer := p.try("LIST", "secret/metadata", "")
	if status == http.StatusOK {
		for _, name := range answer["data"].(map[string]any)["keys"].([]any) {
			p.as("DELETE", "secret/metadata/"+name.(string), "")
		}
	}
	p.permit("")
}

// permit sets the integration's policy, with more appended.
func (p *peer) permit(more string) {
	p.t.Helper()
	text, err := json.Marshal(map[string]string{"policy": policy + more})
	providertest.Must(p.t, err)
	p.as("PUT", "sys/policies/acl/broker", string(text))
}

func (p *peer) world(t testing.TB, role string) *providertest.World {
	p.clear()
	id := p.secretID()
	f := p.newFront(t)
	in := f.integration(t, role, id)
	newest := make(map[string]string)
	return &providertest.World{
		Integration:    in,
		Opener:         Opener(f.Config()),
		Ref:            func(name string) string { return address + "::secret/" + name },
		Foreign:        "https://other.example.com:8200::secret/db",
		UnknownVersion: "99",
		Document:       document,
		Put: func(_ testing.TB, name string, value []byte) string {
			data := p.as("POST", "secret/data/"+name, `{"data":`+string(value)+`}`)["data"].(map[string]any)
			newest[name] = fmt.Sprint(data["version"])
			return newest[name]
		},
		Become: func(_ testing.TB, name string, state providertest.State) {
			switch state {
			case providertest.Disabled:
				p.as("DELETE", "secret/data/"+name, "")
			case providertest.Destroyed:
				p.as("POST", "secret/destroy/"+name, `{"versions":[`+newest[name]+`]}`)
			case providertest.Deleted:
				p.as("DELETE", "secret/metadata/"+name, "")
			case providertest.Forbidden:
				p.permit(`path "secret/data/` + name + `" { capabilities = ["deny"] }`)
			}
		},
		Suffer: f.suffer,
		Login: func(t testing.TB, fate providertest.Fate) {
			if fate == providertest.Revoked {
				p.as("PUT", "sys/leases/revoke-prefix/auth/approle", "{}")
				return
			}
			providertest.Must(t, osWrite(settingsOf(in).Auth.SecretIDFile, "another-secret-id"))
		},
		Reads:   f.count,
		Private: []string{id, "another-secret-id", "hvs."},
		Log:     f.Logs.String,
	}
}
