package gcpsm

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

// TestStoredKey: a key that the registry stores with the integration. The owner of
// the key cannot use it to name a file on the broker's machine.
func TestStoredKey(t *testing.T) {
	f := newFake(t)
	keep := func(file string) func(context.Context) ([]byte, error) {
		b, err := os.ReadFile(file)
		providertest.Must(t, err)
		return func(context.Context) ([]byte, error) { return append([]byte(nil), b...), nil }
	}
	in := f.integration()
	settingsOf(in).Credential = Credential{Type: ServiceAccountKey}
	with := func(c integration.Credential) *integration.Integration {
		in.Credentials = map[string]integration.Credential{"gcp.credential.key": c}
		return in
	}
	f.Gives(f.open(f.Config(), with(keep(f.keyFile(base)))), project+"/secrets/db", canary)

	for says, c := range map[string]integration.Credential{
		"gcp.credential.key: the credential stored with the integration cannot be opened": func(context.Context) ([]byte, error) { return nil, errors.New("another key") },
		"what is stored with the integration is not a credential of the right type":       keep(f.federation(nil)),
		"what is stored with the integration is not a credential file of Google":          func(context.Context) ([]byte, error) { return []byte("no JSON " + canary), nil },
	} {
		_, err := Opener(f.Config())(t.Context(), with(c))
		if err == nil {
			t.Fatalf("opened; want %q", says)
		}
		if e := f.CheckError(err, secret.ReasonStoreAuthenticationFailed); !strings.Contains(e.Message, says) {
			t.Errorf("%q does not say %q", e.Message, says)
		}
	}
}
