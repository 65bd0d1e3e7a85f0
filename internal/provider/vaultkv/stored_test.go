package vaultkv

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestStoredCredentials: a login sends the credential that the registry stores with
// the integration.
func TestStoredCredentials(t *testing.T) {
	keep := func(text string) integration.Credential {
		return func(context.Context) ([]byte, error) { return []byte(text), nil }
	}
	lost := func(context.Context) ([]byte, error) { return nil, errors.New("another key") }
	for _, tt := range []struct {
		name string
		auth Auth
		text string
		sent string // "PATH FIELD" of the login body
	}{
		{"vault.auth.secret_id", Auth{Type: AppRole, Mount: "approle", RoleID: roleID}, secretID, "auth/approle/login secret_id"},
		{"vault.auth.token", Auth{Type: JWT, Mount: "ci", Role: "r"}, "a.b.c", "auth/ci/login jwt"},
		{"vault.auth.token", Auth{Type: Token}, "hvs.own", ""},
	} {
		v := newFake()
		v.put("secret/db", `{"password":"x"}`)
		v.tokens["hvs.own"] = true
		f := newFront(t, v)
		in := f.integration(t, roleID, secretID)
		settingsOf(in).Auth = tt.auth
		in.Credentials = map[string]integration.Credential{tt.name: keep(" " + tt.text + "\n")}
		fetch(t, f.open(t, f.Config(), in), "secret/db")
		if path, field, _ := strings.Cut(tt.sent, " "); tt.sent != "" && v.proofs[path][field] != tt.text {
			t.Errorf("%s: %s was not sent as %s", tt.auth.Type, tt.name, tt.sent)
		}
		in.Credentials[tt.name] = lost
		if e := fails(t, f.open(t, f.Config(), in), "secret/db", secret.ReasonStoreAuthenticationFailed); !strings.Contains(e.Message, tt.name+": the credential stored with the integration cannot be opened") {
			t.Errorf("%s: %v", tt.auth.Type, e)
		}
	}
}

func TestStoredCertificate(t *testing.T) {
	f := newFront(t, newFake())
	in := f.integration(t, roleID, secretID)
	settingsOf(in).Auth = Auth{Type: Cert, Mount: "cert"}
	ca, err := os.ReadFile(f.CAFile)
	providertest.Must(t, err)
	for says, c := range map[string]integration.Credential{
		"vault.auth.certificate: the credential stored with the integration cannot be opened": func(context.Context) ([]byte, error) { return nil, errors.New("another key") },
		"what is stored with the integration does not contain a certificate and its key":      func(context.Context) ([]byte, error) { return append([]byte(nil), ca...), nil },
	} {
		in.Credentials = map[string]integration.Credential{"vault.auth.certificate": c}
		if _, err := Opener(f.Config())(t.Context(), in); err == nil || !strings.Contains(secret.AsError(err).Message, says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
}
