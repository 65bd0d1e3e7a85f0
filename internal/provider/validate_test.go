package provider_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// answering is a Provider with a fixed result for each store.
type answering struct {
	errs   map[string]error // by store
	closed bool
}

func (a *answering) Fetch(_ context.Context, ref secret.Ref) (*secret.Secret, error) {
	if err, ok := a.errs[ref.Store]; ok {
		return nil, err
	}
	return nil, secret.Errorf(secret.ReasonSecretNotFound, "there is no %s", ref.String())
}

func (a *answering) Close() error { a.closed = true; return nil }

// validating also implements provider.Validator.
type validating struct{ answering }

func (*validating) Validate(context.Context) []provider.Step {
	return []provider.Step{{Step: provider.StepToken, Found: "obtained"}}
}

func TestValidate(t *testing.T) {
	const one, two = "https://one.vault.azure.net", "https://two.vault.azure.net"
	policy, err := authz.NewPolicy(secret.KindAzureKeyVault, []string{two, one}, nil)
	if err != nil {
		t.Fatal(err)
	}
	in := &integration.Integration{ID: "i", Kind: secret.KindAzureKeyVault, Policy: policy}
	plain := &answering{errs: map[string]error{two: secret.Errorf(secret.ReasonStoreAccessDenied, "assign the role")}}
	odd := &answering{errs: map[string]error{one: errors.New("something unforeseen")}}
	knowing := &validating{}
	for _, tt := range []struct {
		name string
		open provider.Opener
		want string
	}{
		{"without a validator", opens(plain), "credential , read " + one + " , read " + two + " STORE_ACCESS_DENIED"},
		{"an error of no kind", opens(odd), "credential , read " + one + " INTERNAL, read " + two + " "},
		{"with a validator", opens(knowing), "credential , token "},
		{"a credential that cannot be read", func(context.Context, *integration.Integration) (provider.Provider, error) {
			return nil, secret.Errorf(secret.ReasonStoreAuthenticationFailed, "the file is empty")
		}, "credential STORE_AUTHENTICATION_FAILED"},
		{"an unknown kind", nil, "open INTERNAL"},
	} {
		openers := map[secret.Kind]provider.Opener{}
		if tt.open != nil {
			openers[secret.KindAzureKeyVault] = tt.open
		}
		set := provider.NewSet(provider.SetConfig{Openers: openers})
		var got []string
		for _, step := range set.Validate(t.Context(), in) {
			reason := secret.Reason("")
			if step.Err != nil {
				reason = secret.AsError(step.Err).Reason
			}
			got = append(got, fmt.Sprint(step.String(), " ", reason))
		}
		if text := strings.Join(got, ", "); text != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, text, tt.want)
		}
		if err := set.Close(); err != nil {
			t.Error(err)
		}
	}
	if !plain.closed || !knowing.closed {
		t.Error("what was opened to look was not closed")
	}
}

func opens(p provider.Provider) provider.Opener {
	return func(context.Context, *integration.Integration) (provider.Provider, error) { return p, nil }
}
