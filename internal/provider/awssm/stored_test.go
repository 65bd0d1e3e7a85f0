package awssm

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestStoredKeys uses keys that the registry stores with the integration.
func TestStoredKeys(t *testing.T) {
	keep := func(text string) integration.Credential {
		return func(context.Context) ([]byte, error) { return []byte(text), nil }
	}
	f := newFake(t)
	f.put(region, "db", canary)
	in := f.integration()
	settingsOf(in).Credential = Credential{Type: Static}
	in.Credentials = map[string]integration.Credential{
		"aws.credential.access_key_id": keep(baseKey + "\n"), "aws.credential.secret_access_key": keep(baseSecret),
	}
	f.Fetch(f.open(f.Config(), in), storeURL+"::db")

	for says, change := range map[string]func(){
		"aws.credential.secret_access_key: the credential stored": func() {
			in.Credentials["aws.credential.secret_access_key"] = func(context.Context) ([]byte, error) { return nil, errors.New("another key") }
		},
		"what is stored with the integration contains more than one word": func() {
			in.Credentials["aws.credential.secret_access_key"] = keep("two words " + baseSecret)
		},
		"aws.credential.access_key_id_file is missing": func() { delete(in.Credentials, "aws.credential.access_key_id") },
	} {
		before := map[string]integration.Credential{}
		for k, v := range in.Credentials {
			before[k] = v
		}
		change()
		_, err := Opener(f.Config())(t.Context(), in)
		if err == nil {
			t.Fatalf("opened; want %q", says)
		}
		if e := f.CheckError(err, secret.ReasonStoreAuthenticationFailed); !strings.Contains(e.Message, says) {
			t.Errorf("%q does not say %q", e.Message, says)
		}
		in.Credentials = before
	}
}
