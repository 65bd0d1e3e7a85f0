package app

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/devmode"
	"github.com/secretbroker/secretbroker/internal/netfault"
)

// TestHangingVault: a vault accepts connections and answers nothing. Callers with deadlines
// that are shorter than the timeout of a request get the known values, marked stale, in
// time. When the vault answers again, the values are fresh.
func TestHangingVault(t *testing.T) {
	var proxy *netfault.Proxy
	b := newBroker(t, func(env *devmode.Environment) (err error) {
		if proxy, err = netfault.Listen("127.0.0.1:0", env.VaultListen); err != nil {
			return err
		}
		t.Cleanup(func() { _ = proxy.Close() })
		return errors.Join(
			edit(env.IntegrationFile, "your-key-vault-name.vault.azure.net: "+env.VaultListen, "your-key-vault-name.vault.azure.net: "+proxy.Addr()),
			edit(env.IntegrationFile, "cache: {ttl: 5m}", "cache: {ttl: 1s, max_stale: 1h}"))
	})
	c := b.as(t, b.Worker)
	secrets := []string{"postgres-password", "sqlserver-db-secret"}
	ask := func(name string, deadline time.Duration, maxAge *time.Duration) (client.Value, time.Duration, error) {
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		defer cancel()
		began := time.Now()
		req := request("p", vault+"::"+name)
		req.MaxAge = maxAge
		res, err := c.Resolve(ctx, req)
		if err != nil {
			return client.Value{}, time.Since(began), err
		}
		return res.Values["p"], time.Since(began), nil
	}
	for _, name := range secrets {
		if v, _, err := ask(name, time.Minute, nil); err != nil || v.Stale {
			t.Fatalf("%s: %+v, %v", name, v, err)
		}
	}
	proxy.Hold()
	asynctest.Eventually(t, "the values are stale", func() bool {
		all := true
		for _, name := range secrets {
			v, _, err := ask(name, 2*time.Second, nil)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			all = all && v.Stale
		}
		return all
	})
	for range 2 {
		for _, deadline := range []time.Duration{time.Second, 2 * time.Second, 5 * time.Second} {
			for _, name := range secrets {
				v, took, err := ask(name, deadline, nil)
				if err != nil || !v.Stale || took > deadline*3/4 {
					t.Errorf("%s, deadline %v: stale %v after %v, %v", name, deadline, v.Stale, took, err)
				}
			}
		}
	}
	forced := time.Duration(0)
	if v, _, err := ask(secrets[0], time.Second, &forced); err == nil {
		t.Errorf("a read that max_age forces: stale %v", v.Stale)
	}
	proxy.Release()
	asynctest.Eventually(t, "the vault is read again", func() bool {
		for _, name := range secrets {
			if v, _, err := ask(name, 2*time.Second, nil); err != nil || v.Stale {
				return false
			}
		}
		return true
	})
}
