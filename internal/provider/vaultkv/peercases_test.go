package vaultkv

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestPeerConformance runs the suite against a real server. A proxy in front of the
// server injects the faults.
func TestPeerConformance(t *testing.T) {
	p := startPeer(t)
	role := p.prepare("1h")
	providertest.Run(t, providertest.Harness{
		Start:      func(t testing.TB) *providertest.World { return p.world(t, role) },
		Biggest:    512 << 10,
		Exceptions: exceptions(),
	})
}

// TestPeerEngines reads from every engine, also at nested mounts, with the policy of
// the guide.
func TestPeerEngines(t *testing.T) {
	p := startPeer(t)
	role := p.prepare("1h")
	p.as("POST", "legacy/db", `{"password":"p1","n":1}`)
	p.as("POST", "legacy/hinted", `{"password":"p2","ttl":"90s"}`)
	p.as("POST", "team/deep/kv/data/a/b", `{"data":{"password":"p3"}}`)
	p.as("POST", "secret/metadata/short", `{"delete_version_after":"1h"}`)
	p.as("POST", "secret/data/short", `{"data":{"password":"p4"}}`)
	f := p.newFront(t)
	s := f.open(t, f.Config(), f.integration(t, role, p.secretID()))
	for name, want := range map[string]string{"legacy/db": "p1", "legacy/hinted": "p2", "team/deep/kv/a/b": "p3", "secret/short": "p4"} {
		got := fetch(t, s, name)
		if text(t, got, "password") != want {
			t.Errorf("%s is not what was put", name)
		}
		left := time.Until(got.ExpiresAt)
		switch name {
		case "legacy/hinted":
			if left <= 0 || left > 90*time.Second {
				t.Errorf("%s is good for %v", name, left)
			}
		case "secret/short":
			if left < 59*time.Minute || left > time.Hour {
				t.Errorf("%s is good for %v", name, left)
			}
		default:
			if !got.ExpiresAt.IsZero() {
				t.Errorf("%s is good until %v", name, got.ExpiresAt)
			}
		}
	}
	fails(t, s, "legacy/none", secret.ReasonSecretNotFound)
	fails(t, s, "secret/forbidden-x", secret.ReasonStoreAccessDenied)
	fails(t, s, "other/x", secret.ReasonStoreNotAllowed)

	first := fetch(t, s, "database/creds/app")
	again := fetch(t, s, "database/creds/app")
	if first.Version != again.Version || text(t, first, "password") != text(t, again, "password") {
		t.Error("a lease that can be renewed was not: there are two credentials now")
	}
	if left := again.ExpiresAt.Sub(again.FetchedAt); left <= 0 || left >= 30*time.Second {
		t.Errorf("the credential is good for %v, its lease for 30s", left)
	}
	p.as("PUT", "sys/leases/revoke-prefix/database", "{}")
	if other := fetch(t, s, "database/creds/app"); other.Version == first.Version || text(t, other, "password") == text(t, first, "password") {
		t.Error("a credential whose lease was revoked is served again")
	}
}

// TestPeerLogins logs in with every auth method that the server has.
func TestPeerLogins(t *testing.T) {
	p := startPeer(t)
	role := p.prepare("1h")
	p.as("POST", "secret/data/db", `{"data":{"password":"p"}}`)
	p.as("POST", "sys/auth/ci", `{"type":"jwt"}`)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	providertest.Must(t, err)
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	providertest.Must(t, err)
	public, err := json.Marshal(string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	providertest.Must(t, err)
	p.as("POST", "auth/ci/config", `{"jwt_validation_pubkeys":[`+string(public)+`],"bound_issuer":"test"}`)
	p.as("POST", "auth/ci/role/broker", `{"role_type":"jwt","bound_audiences":["vault"],"user_claim":"sub","token_policies":["broker"],"token_ttl":"1h"}`)
	p.as("POST", "sys/auth/cert", `{"type":"cert"}`)
	ca, err := json.Marshal(string(p.certPEM))
	providertest.Must(t, err)
	p.as("POST", "auth/cert/certs/broker", `{"certificate":`+string(ca)+`,"allowed_dns_sans":["example.com"],"token_policies":["broker"],"token_ttl":"1h"}`)
	token := p.as("POST", "auth/token/create", `{"policies":["broker"],"ttl":"1h"}`)["auth"].(map[string]any)["client_token"].(string)

	jwt := signed(t, key, map[string]any{"iss": "test", "aud": "vault", "sub": "broker", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()})
	foreign, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	providertest.Must(t, err)
	wrong := signed(t, foreign, map[string]any{"iss": "test", "aud": "vault", "sub": "broker", "exp": time.Now().Add(time.Hour).Unix()})
	for name, tc := range map[string]struct {
		auth Auth
		good bool
	}{
		"approle":        {Auth{Type: AppRole, Mount: "approle", RoleID: role, SecretIDFile: providertest.WriteFile(t, "id", p.secretID())}, true},
		"jwt":            {Auth{Type: JWT, Mount: "ci", Role: "broker", TokenFile: providertest.WriteFile(t, "jwt", jwt)}, true},
		"jwt, wrong key": {Auth{Type: JWT, Mount: "ci", Role: "broker", TokenFile: providertest.WriteFile(t, "jwt", wrong)}, false},
		"jwt, no role":   {Auth{Type: JWT, Mount: "ci", Role: "none", TokenFile: providertest.WriteFile(t, "jwt", jwt)}, false},
		"no such mount":  {Auth{Type: JWT, Mount: "none", Role: "broker", TokenFile: providertest.WriteFile(t, "jwt", jwt)}, false},
		"cert":           {Auth{Type: Cert, Mount: "cert", CertificateFile: providertest.WriteFile(t, "cert", string(p.certPEM))}, true},
		"cert, role":     {Auth{Type: Cert, Mount: "cert", Role: "broker", CertificateFile: providertest.WriteFile(t, "cert", string(p.certPEM))}, true},
		"cert, no role":  {Auth{Type: Cert, Mount: "cert", Role: "none", CertificateFile: providertest.WriteFile(t, "cert", string(p.certPEM))}, false},
		"token":          {Auth{Type: Token, TokenFile: providertest.WriteFile(t, "token", token+"\n")}, true},
		"token, none":    {Auth{Type: Token, TokenFile: providertest.WriteFile(t, "token", "hvs.none")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			in := p.direct()
			settingsOf(in).Auth = tc.auth
			s := (&front{}).open(t, provider.Config{}, in)
			if !tc.good {
				fails(t, s, "secret/db", secret.ReasonStoreAuthenticationFailed)
				return
			}
			if text(t, fetch(t, s, "secret/db"), "password") != "p" {
				t.Error("not what was put")
			}
		})
	}
}

// TestPeerTokenEnds: tokens that live for seconds are renewed, and replaced when they
// cannot be renewed.
func TestPeerTokenEnds(t *testing.T) {
	p := startPeer(t)
	role := p.prepare("2s")
	p.as("POST", "auth/approle/role/broker", `{"token_policies":["broker"],"token_ttl":"2s","token_max_ttl":"4s"}`)
	p.as("POST", "secret/data/db", `{"data":{"password":"p"}}`)
	f := p.newFront(t)
	s := f.open(t, f.Config(), f.integration(t, role, p.secretID()))
	for begin := time.Now(); time.Since(begin) < 6*time.Second; {
		fetch(t, s, "secret/db")
		<-time.After(100 * time.Millisecond)
	}
	if f.requests("PUT auth/token/renew-self") == 0 || f.requests("POST auth/approle/login") < 2 {
		t.Errorf("%d renewals and %d logins", f.requests("PUT auth/token/renew-self"), f.requests("POST auth/approle/login"))
	}
}

// direct returns an integration that reads the server without a proxy.
func (p *peer) direct() *integration.Integration {
	return &integration.Integration{
		ID: "it", Revision: "1", Kind: secret.KindHashiCorpVault,
		Settings: &Settings{Address: address, CAFile: p.caFile, Dial: p.addr, Mounts: []Mount{{Path: "secret", Engine: KV2}}},
	}
}

// signed returns a signed JWT.
func signed(t testing.TB, key *ecdsa.PrivateKey, claims map[string]any) string {
	t.Helper()
	body, err := json.Marshal(claims)
	providertest.Must(t, err)
	enc := base64.RawURLEncoding
	content := enc.EncodeToString([]byte(`{"alg":"ES256","typ":"JWT"}`)) + "." + enc.EncodeToString(body)
	sum := sha256.Sum256([]byte(content))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	providertest.Must(t, err)
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return content + "." + enc.EncodeToString(signature)
}
