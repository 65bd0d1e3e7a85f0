package app

import (
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// database is a Vault server with a secrets engine that creates a database user for every
// read.
type database struct {
	*httptest.Server
	mu            sync.Mutex
	logins, users int
}

func newDatabase(t *testing.T) *database {
	d := &database{}
	d.Server = httptest.NewTLSServer(d)
	t.Cleanup(d.Close)
	return d
}

func (d *database) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	switch r.URL.Path {
	case "/v1/auth/approle/login":
		d.logins++
		fmt.Fprintf(w, `{"auth":{"client_token":"hvs.%d","lease_duration":3600,"renewable":true}}`, d.logins)
	case "/v1/database/creds/app":
		d.users++
		fmt.Fprintf(w, `{"lease_id":"database/creds/app/%d","lease_duration":3600,"renewable":true,"data":{"password":"p%d"}}`, d.users, d.users)
	default:
		http.NotFound(w, r)
	}
}

// made returns the number of logins and users.
func (d *database) made() [2]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return [2]int{d.logins, d.users}
}

// An edit of an integration that does not affect its reads takes effect at once. It opens no
// session, creates no user in Vault and removes nothing from the cache. Other edits do, also
// if they restore earlier settings.
func TestEditsLeaveReadsAlone(t *testing.T) {
	vault := newDatabase(t)
	var file, secretID string
	b := newBroker(t, func(env *devmode.Environment) error {
		dir := filepath.Dir(env.IntegrationFile)
		file, secretID = filepath.Join(dir, "db.yaml"), filepath.Join(env.Dir, "secret-id")
		ca := filepath.Join(env.Dir, "db-ca.pem")
		return errors.Join(
			os.WriteFile(secretID, []byte("s3cret-id"), 0o600),
			os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: vault.Certificate().Raw}), 0o600),
			os.WriteFile(file, fmt.Appendf(nil, `id: db
kind: HASHICORP_VAULT
vault:
  address: https://example.com:8200
  dial: %s
  ca_file: %s
  auth: {type: approle, role_id: r, secret_id_file: %s}
  mounts: [{path: database, engine: dynamic}]
grants:
  - principals: [%s]
`, vault.Listener.Addr(), ca, secretID, env.Worker.ID), 0o600))
	})
	loaded := func() int { return strings.Count(b.log.String(), `msg="integration loaded" integration_id=db`) }
	// reload makes the broker read its files, unless it has already noticed the change.
	// Each change is loaded once.
	loads := loaded()
	reload := func(what string, change error) {
		t.Helper()
		if change != nil {
			t.Fatalf("%s: %v", what, change)
		}
		b.hangups <- syscall.SIGHUP
		loads++
		asynctest.Eventually(t, what, func() bool { return loaded() >= loads })
	}
	worker := b.as(t, b.Worker)
	read := func() (string, error) {
		res, err := worker.Resolve(t.Context(), client.ResolveRequest{IntegrationID: "db", Configs: map[string]string{"p": "https://example.com:8200::database/creds/app::password"}})
		if err != nil {
			return "", err
		}
		return res.Values["p"].Reveal(), nil
	}
	want := func(what, value string, made [2]int) {
		t.Helper()
		if got, err := read(); err != nil || got != value || vault.made() != made {
			t.Errorf("%s: %q, %v; logins and users: %v, want %v", what, got, err, vault.made(), made)
		}
	}
	want("at first", "p1", [2]int{1, 1})
	for i := range 5 {
		reload("a grant", edit(file, "grants:\n", fmt.Sprintf("grants:\n  - principals: ['dns:worker-%d.example.org']\n", i)))
		want("after a grant", "p1", [2]int{1, 1})
	}
	reload("a name and roles", edit(file, "kind:", "display_name: Orders\nroles: {auditor: ['dns:auditor.example.org']}\nkind:"))
	want("after a name and roles", "p1", [2]int{1, 1})

	granted := fmt.Sprintf("  - principals: [%s]\n", b.Worker.ID)
	reload("a revocation", edit(file, granted, ""))
	var denied *client.Error
	if got, err := read(); !errors.As(err, &denied) || denied.Reason != "ACCESS_DENIED" {
		t.Errorf("after the revocation: %q, %v", got, err)
	}
	reload("the grant again", edit(file, "grants:\n", "grants:\n"+granted))
	want("after the grant again", "p1", [2]int{1, 1})

	reload("another credential", replace(secretID, "an0ther-id"))
	want("after another credential", "p2", [2]int{2, 2})
	reload("another mount", edit(file, "engine: dynamic}]", "engine: dynamic}, {path: kv, engine: kv2}]"))
	want("after another mount", "p3", [2]int{3, 3})
	// What was read with these settings before may have changed in the store since.
	reload("the mounts before", edit(file, ", {path: kv, engine: kv2}]", "]"))
	want("after the mounts before", "p4", [2]int{4, 4})
}
