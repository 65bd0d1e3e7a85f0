package app

import (
	"context"
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
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// vending is a Vault server with credentials whose leases of 12 s cannot be renewed.
type vending struct {
	mu      sync.Mutex
	created int
}

func (v *vending) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	switch r.URL.Path {
	case "/v1/auth/approle/login":
		fmt.Fprint(w, `{"auth":{"client_token":"hvs.1","lease_duration":3600,"renewable":true}}`)
	case "/v1/database/creds/app":
		v.created++
		fmt.Fprintf(w, `{"request_id":"r%d","lease_id":"database/creds/app/%d","lease_duration":12,"renewable":false,"data":{"username":"u%d","password":"p%d"}}`, v.created, v.created, v.created, v.created)
	default:
		http.NotFound(w, r)
	}
}

// TestPeerFollowCredential: two programs that follow a credential which cannot be renewed have
// the next one before the first one ends, and it is created once for both. It takes as long as
// a lease, and runs only if TEST_PEERS is set.
func TestPeerFollowCredential(t *testing.T) {
	if os.Getenv("TEST_PEERS") == "" {
		t.Skip("takes ten seconds; make test-peers runs it")
	}
	vault := &vending{}
	server := httptest.NewTLSServer(vault)
	t.Cleanup(server.Close)
	b := newBroker(t, func(env *devmode.Environment) error {
		ca, secretID := filepath.Join(env.Dir, "db-ca.pem"), filepath.Join(env.Dir, "secret-id")
		return errors.Join(
			os.WriteFile(secretID, []byte("s3cret-id"), 0o600),
			os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600),
			os.WriteFile(filepath.Join(filepath.Dir(env.IntegrationFile), "db.yaml"), fmt.Appendf(nil, `id: db
kind: HASHICORP_VAULT
vault:
  address: https://example.com:8200
  dial: %s
  ca_file: %s
  auth: {type: approle, role_id: r, secret_id_file: %s}
  mounts: [{path: database, engine: dynamic}]
grants:
  - principals: [%s]
`, server.Listener.Addr(), ca, secretID, env.Worker.ID), 0o600))
	})
	type change struct {
		at      time.Time
		configs map[string]string
	}
	const reference = "https://example.com:8200::database/creds/app::"
	var ends time.Time
	changes := []chan change{make(chan change, 10), make(chan change, 10)}
	for i := range changes {
		f, err := b.as(t, b.Worker).Follow(t.Context(), client.FollowRequest{
			Sets: map[string]client.FollowSet{"db": {IntegrationID: "db", Configs: map[string]string{"user": reference + "username", "password": reference + "password"}}},
			Changed: func(_ context.Context, all []client.Change) {
				c := change{time.Now(), make(map[string]string)}
				for _, one := range all {
					c.configs[one.Config] = one.Value.Reveal()
				}
				changes[i] <- c
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(f.Close)
		v, err := f.Get("db", "password")
		if err != nil || v.Reveal() != "p1" {
			t.Fatalf("%q, %v", v.Version, err)
		}
		ends = v.SecretExpireTime
	}
	for i := range changes {
		select {
		case c := <-changes[i]:
			if left := ends.Sub(c.at); left <= 0 || c.configs["user"] != "u2" || c.configs["password"] != "p2" {
				t.Errorf("%v, %v before the end of the first credential", c.configs, left)
			} else {
				t.Logf("the next credential %v before the end of the first", left.Round(time.Millisecond))
			}
		case <-time.After(30 * time.Second):
			t.Fatal("no change")
		}
	}
	vault.mu.Lock()
	defer vault.mu.Unlock()
	if vault.created != 2 {
		t.Errorf("%d credentials were created", vault.created)
	}
}
