package azurekv

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

var _ provider.Validator = (*store)(nil)

// noVersion is a version that no secret has.
const noVersion = "00000000000000000000000000000000"

// Validate implements provider.Validator. It acquires a token, and then asks each
// vault for a secret or a version that does not exist. Key Vault checks the role before
// it looks for the secret, so "not found" shows that the identity may read. A role may be
// assigned on a single secret; then only a grant with its exact name can be checked.
func (s *store) Validate(ctx context.Context) []provider.Step {
	step := provider.Step{Step: provider.StepToken, Found: "the login authority issued an access token"}
	if err := s.askForToken(ctx); err != nil {
		step = provider.Step{Step: provider.StepToken, Err: err}
	}
	steps := []provider.Step{step}
	if step.Err != nil {
		return append(steps, provider.Skipped(s.azure.Vaults)...)
	}
	for _, vault := range s.azure.Vaults {
		steps = append(steps, provider.ProbeGranted(ctx, s, s.in, vault, noVersion))
	}
	return steps
}

func (s *store) askForToken(ctx context.Context) error {
	ses := s.session()
	// The resource of https://NAME.vault.azure.net is https://vault.azure.net. The
	// other clouds follow the same rule.
	_, resource, _ := strings.Cut(s.azure.Vaults[0], ".")
	_, err := ses.tokens.GetToken(ctx, policy.TokenRequestOptions{
		Scopes: []string{fmt.Sprintf("https://%s/.default", resource)}, TenantID: s.azure.TenantID, EnableCAE: true,
	})
	var known *secret.Error
	switch {
	case err == nil, errors.As(err, &known):
		return err
	default:
		return secret.Errorf(secret.ReasonStoreUnavailable, "timed out waiting for the login authority; check the network path to it").WithCause(err)
	}
}
