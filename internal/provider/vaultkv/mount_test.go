package vaultkv

import (
	"net/http"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// A namespace that is listed as a mount gives no access to the server's own endpoints
// in that namespace, neither to the integration's token nor to the system.
func TestNamespaceIsNoMount(t *testing.T) {
	v := newFake()
	f := newFront(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v1/ns1/") {
			t.Errorf("%s was read", r.URL.Path)
			providertest.WriteJSON(w, http.StatusOK, `{"data":{"id":"hvs.CANARY","password":"CANARY"}}`)
			return
		}
		v.ServeHTTP(w, r)
	}))
	for _, engine := range []Engine{KV1, Dynamic} {
		in := f.integration(t, roleID, secretID)
		settingsOf(in).Mounts = []Mount{{Path: "ns1", Engine: engine}}
		s := f.open(t, f.Config(), in)
		for _, name := range []string{"ns1/auth/token/lookup-self", "ns1/sys/policies/acl/root", "ns1/ns2/identity/oidc/token/r", "ns1/cubbyhole/x"} {
			e := fails(t, s, name, secret.ReasonStoreNotAllowed)
			if !strings.Contains(e.Message, "vault.namespace") {
				t.Errorf("%s: %s", name, e.Message)
			}
		}
	}
}

// A secret may legitimately have such a name.
func TestSecretsNamedLikeTheSystem(t *testing.T) {
	v := newFake()
	newEngine(v)
	f := newFront(t, v)
	s := f.open(t, f.Config(), f.integration(t, roleID, secretID))
	for _, name := range []string{"secret/app/auth/google", "legacy/auth/google", "legacy/app/sys/x"} {
		v.put(name, `{"password":"p"}`)
		fetch(t, s, name)
	}
	fetch(t, s, "database/creds/auth").Release()
	if n := f.requests("GET sys/internal/ui/mounts/"); n != 3 {
		t.Errorf("the server was asked about mounts %d times", n)
	}
}

// The type of a mounted engine must be the one that the integration states.
func TestMountTypes(t *testing.T) {
	for _, tc := range []struct {
		engine  Engine
		mounted string
		want    bool
	}{
		{KV1, "kv", true}, {KV1, "generic", true}, {KV1, "system", false},
		{KV1, "cubbyhole", false}, {KV1, "", false},
		{Dynamic, "pki", true}, {Dynamic, "ns_system", false}, {Dynamic, "token", false}, {Dynamic, "", false},
	} {
		if got := mayHold(tc.engine, tc.mounted); got != tc.want {
			t.Errorf("%s at %q: %v", tc.engine, tc.mounted, got)
		}
	}
}
