package app

import (
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// tokenVault is a Vault server with one periodic token, which it forgets for good when it has
// not been renewed for a period.
type tokenVault struct {
	*httptest.Server
	period time.Duration

	mu       sync.Mutex
	ends     time.Time // zero before the first request
	ended    bool
	renewals int
	reads    int
}

func newTokenVault(t *testing.T, period time.Duration) *tokenVault {
	v := &tokenVault{period: period}
	v.Server = httptest.NewTLSServer(v)
	t.Cleanup(v.Close)
	return v
}

func (v *tokenVault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ends.IsZero() {
		v.ends = time.Now().Add(v.period)
	}
	v.ended = v.ended || !time.Now().Before(v.ends)
	seconds := int(v.period / time.Second)
	w.Header().Set("Content-Type", "application/json")
	switch {
	case v.ended || r.Header.Get("X-Vault-Token") != "hvs.periodic":
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"errors":["permission denied"]}`)
	case r.URL.Path == "/v1/auth/token/lookup-self":
		fmt.Fprintf(w, `{"request_id":"r","data":{"ttl":%d,"renewable":true,"period":%d,"creation_ttl":%d}}`, seconds, seconds, seconds)
	case r.URL.Path == "/v1/auth/token/renew-self":
		v.ends = time.Now().Add(v.period)
		v.renewals++
		fmt.Fprintf(w, `{"request_id":"r","auth":{"client_token":"hvs.periodic","lease_duration":%d,"renewable":true}}`, seconds)
	default:
		v.reads++
		fmt.Fprint(w, `{"request_id":"r","data":{"data":{"password":"p1"},"metadata":{"version":1}}}`)
	}
}

func (v *tokenVault) state() (renewals, reads int, ended bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.renewals, v.reads, v.ended || !v.ends.IsZero() && !time.Now().Before(v.ends)
}

// TestPeriodicTokenOnAQuietDay: a broker keeps the token of an integration alive before the
// first read, and while all calls are answered from the cache.
func TestPeriodicTokenOnAQuietDay(t *testing.T) {
	vault := newTokenVault(t, 3*time.Second)
	b := newBroker(t, func(env *devmode.Environment) error {
		token, ca := filepath.Join(env.Dir, "vault-token"), filepath.Join(env.Dir, "vault-ca.pem")
		return errors.Join(
			os.WriteFile(token, []byte("hvs.periodic"), 0o600),
			os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: vault.Certificate().Raw}), 0o600),
			os.WriteFile(filepath.Join(filepath.Dir(env.IntegrationFile), "quiet.yaml"), fmt.Appendf(nil, `id: quiet
kind: HASHICORP_VAULT
vault:
  address: https://example.com:8200
  dial: %s
  ca_file: %s
  auth: {type: token, token_file: %s}
  mounts: [{path: secret, engine: kv2}]
cache: {ttl: 1h}
grants:
  - principals: [%s]
`, vault.Listener.Addr(), ca, token, env.Worker.ID), 0o600))
	})
	worker := b.as(t, b.Worker)
	read := func(maxAge *time.Duration) {
		t.Helper()
		res, err := worker.Resolve(t.Context(), client.ResolveRequest{IntegrationID: "quiet", MaxAge: maxAge,
			Configs: map[string]string{"p": "https://example.com:8200::secret/db::password"}})
		if err != nil || res.Values["p"].Reveal() != "p1" {
			t.Fatal(err)
		}
	}
	// periods waits until the token has been renewed twice, and requires that it has
	// never ended.
	periods := func(when string, meanwhile func()) {
		t.Helper()
		before, _, _ := vault.state()
		asynctest.Eventually(t, when, func() bool {
			meanwhile()
			now, _, ended := vault.state()
			if ended {
				t.Fatalf("%s: the token has ended", when)
			}
			return now >= before+2
		})
	}
	periods("before the first read", func() {})
	if _, reads, _ := vault.state(); reads != 0 {
		t.Errorf("%d reads before the first", reads)
	}
	periods("with answers from the cache", func() { read(nil) })
	if _, reads, _ := vault.state(); reads != 1 {
		t.Errorf("%d reads, want one", reads)
	}
	forced := time.Duration(0)
	read(&forced)
}
