package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/devmode"
	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
)

// TestVaultCannotCheckTokens is the case akv10046: while 30 % of the reads of a vault get 401
// AKV10046, which says nothing about the token, 280 configs that have been read before are
// answered. When the vault has recovered, the values are fresh.
func TestVaultCannotCheckTokens(t *testing.T) {
	const configs, perCall = 280, 56
	var faulty atomic.Bool
	var reads, refused atomic.Int64
	b := newBroker(t, func(env *devmode.Environment) error {
		host := strings.TrimPrefix(vault, "https://")
		front := vaultFront(t, env, host, func(w http.ResponseWriter, r *http.Request) bool {
			if !faulty.Load() || r.Header.Get("Authorization") == "" || reads.Add(1)%10 >= 3 {
				return false
			}
			refused.Add(1)
			w.Header().Set("WWW-Authenticate", `Bearer authorization="https://login.microsoftonline.com/x", resource="https://vault.azure.net"`)
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"error":{"code":"Unauthorized","message":"AKV10046: Unable to resolve the key used for signature validation."}}`)
			return true
		})
		var more strings.Builder
		for i := range configs {
			fmt.Fprintf(&more, "      sqlserver-%d:\n        value: 'value-%d'\n", i, i)
		}
		return errors.Join(
			edit(env.SecretsFile, "    secrets:\n      sqlserver-db-secret:\n        value: '{\"user\":\"dbadmin\"", "    secrets:\n"+more.String()+"      sqlserver-db-secret:\n        value: '{\"user\":\"dbadmin\""),
			edit(env.IntegrationFile, host+": "+env.VaultListen, host+": "+front),
			edit(env.IntegrationFile, "cache: {ttl: 5m}", "cache: {ttl: 1s, max_stale: 1h}"))
	})
	c := b.as(t, b.Worker)
	// ask resolves all configs and returns how many of the values are stale.
	ask := func() (stale int, err error) {
		for first := 0; first < configs; first += perCall {
			req := request()
			for i := first; i < first+perCall; i++ {
				req.Configs[fmt.Sprint(i)] = fmt.Sprintf("%s::sqlserver-%d", vault, i)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			res, err := c.Resolve(ctx, req)
			cancel()
			if err != nil {
				return 0, err
			}
			for name, v := range res.Values {
				if v.Reveal() != "value-"+name {
					t.Fatalf("%s has the value of another secret", name)
				}
				if v.Stale {
					stale++
				}
			}
		}
		return stale, nil
	}
	// On a slow machine, a few of the first reads take too long.
	asynctest.Eventually(t, "all values have been read", func() bool {
		_, err := ask()
		return err == nil
	})
	// readBefore is ask for values that have been read before, so no config fails.
	readBefore := func() int {
		stale, err := ask()
		if err != nil {
			t.Fatal(err)
		}
		return stale
	}
	faulty.Store(true)
	asynctest.Eventually(t, "the vault has refused many reads, and stale values were answered", func() bool {
		return readBefore() > 0 && refused.Load() >= configs*3/10
	})
	faulty.Store(false)
	asynctest.Eventually(t, "all values are fresh", func() bool { return readBefore() == 0 })
}

// vaultFront starts a server that passes requests to the embedded Key Vault unless answer
// answers them, adds its authority to the integration's, and returns its address.
func vaultFront(t *testing.T, env *devmode.Environment, host string, answer func(http.ResponseWriter, *http.Request) bool) string {
	t.Helper()
	ca := trusttest.NewCA(t, "front")
	if err := edit(env.KeyVaultCAFile, "-----BEGIN CERTIFICATE-----", string(ca.PEM())+"-----BEGIN CERTIFICATE-----"); err != nil {
		t.Fatal(err)
	}
	pass := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "https", Host: env.VaultListen})
	pass.ErrorLog = log.New(io.Discard, "", 0) // requests are cancelled at the end
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	pass.Transport = transport
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !answer(w, r) {
			pass.ServeHTTP(w, r)
		}
	}))
	front.TLS = &tls.Config{Certificates: []tls.Certificate{*ca.DNS(host)}, MinVersion: tls.VersionTLS12}
	front.Config.ErrorLog = pass.ErrorLog
	front.StartTLS()
	t.Cleanup(func() {
		front.Close()
		transport.CloseIdleConnections()
	})
	return front.Listener.Addr().String()
}
