package azurekv

import (
	"net/http"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// roleOn returns a vault whose role is assigned on single secrets, as "NAME" or
// "NAME/VERSION" in the paths of requests. The other vault denies everything.
func roleOn(inner string, names ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/secrets/"), "/")
		for _, n := range names {
			if r.Host == vaultHost && (n == name || n == "*") {
				providertest.WriteJSON(w, http.StatusNotFound, `{"error":{"code":"SecretNotFound","message":"x"}}`)
				return
			}
		}
		providertest.WriteJSON(w, http.StatusForbidden, `{"error":{"code":"Forbidden","message":"x","innererror":{"code":"`+inner+`"}}}`)
	}
}

// TestValidate: each step reports what it found, and no value is read. The role may be
// assigned on the vault or on single secrets.
func TestValidate(t *testing.T) {
	badClient := func(w http.ResponseWriter, _ *http.Request) {
		providertest.WriteJSON(w, http.StatusUnauthorized, `{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret"}`)
	}
	const rbac = "ForbiddenByRbac"
	for _, tt := range []struct {
		name    string
		token   http.HandlerFunc
		vault   http.HandlerFunc
		secrets []string
		want    string
		text    string // in the step of the first vault
		reads   int
	}{
		{"the role on the vault", nil, roleOn(rbac, "*"), []string{"db-*"}, "token ok, read " + vaultURL + " ok, read " + otherURL + " unchecked", "may read secrets", 2},
		{"no grants", nil, roleOn(rbac, "*"), nil, "token ok, read " + vaultURL + " ok, read " + otherURL + " unchecked", "may read secrets", 2},
		{"the role on one secret", nil, roleOn(rbac, "db"), []string{"db"},
			"token ok, read " + vaultURL + " ok, read " + otherURL + " STORE_ACCESS_DENIED", "may read db", 2},
		{"the role on one of two secrets", nil, roleOn(rbac, "db"), []string{"db", "web"},
			"token ok, read " + vaultURL + " STORE_ACCESS_DENIED, read " + otherURL + " STORE_ACCESS_DENIED", "web, which a grant names: ", 3},
		{"the role on one secret, and a pattern beside it", nil, roleOn(rbac, "db"), []string{"*", "db"},
			"token ok, read " + vaultURL + " ok, read " + otherURL + " STORE_ACCESS_DENIED", "may read db", 2},
		{"the role on a secret that no grant names", nil, roleOn(rbac, "db"), []string{"d*"},
			"token ok, read " + vaultURL + " unchecked, read " + otherURL + " unchecked", "no grant has the exact name of a secret", 2},
		{"a firewall", nil, roleOn("ForbiddenByFirewall"), []string{"d*"},
			"token ok, read " + vaultURL + " STORE_ACCESS_DENIED, read " + otherURL + " STORE_ACCESS_DENIED", "the firewall", 2},
		{"an access policy, which is for the whole vault", nil, roleOn("AccessDenied"), []string{"d*"},
			"token ok, read " + vaultURL + " STORE_ACCESS_DENIED, read " + otherURL + " STORE_ACCESS_DENIED", "access policy", 2},
		{"a wrong client secret", badClient, roleOn(rbac), nil, "token STORE_AUTHENTICATION_FAILED, read " + vaultURL + " skipped, read " + otherURL + " skipped", "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			f.vault = tt.vault
			if tt.token != nil {
				f.token = tt.token
			}
			in := f.integration()
			providertest.Grant(t, Spec(), in, `azure: {tenant_id: `+tenantID+`, credential: {type: managed_identity}, vaults: `+providertest.List(settingsOf(in).Vaults)+`}`, tt.secrets)
			steps := f.open(f.Config(), in).Validate(t.Context())
			if got := providertest.Steps(steps); got != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
			text := steps[1].Found
			if steps[1].Err != nil {
				text = secret.AsError(steps[1].Err).Message
			}
			if !strings.Contains(text, tt.text) {
				t.Errorf("found %q, want %q", text, tt.text)
			}
			for _, step := range steps {
				if step.Err != nil {
					f.CheckClean("a step", step.Err.Error())
				}
			}
			if _, reads := f.counts(); reads != tt.reads {
				t.Errorf("%d reads, want %d", reads, tt.reads)
			}
		})
	}
}
