package gcpsm

import (
	"context"

	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

var _ provider.Validator = (*store)(nil)

// noVersion is a version number that no secret has.
const noVersion = "999999999"

// Validate implements provider.Validator. It acquires a token, and then asks each
// project for a secret that does not exist. Secret Manager checks the role before it
// looks for the secret, so "not found" shows that the identity may read.
//
// If the role is granted for single secrets, Secret Manager denies access to names
// that do not exist. Validate then needs a grant with the exact name of a secret, and
// asks for a version of it that does not exist.
func (s *store) Validate(ctx context.Context) []provider.Step {
	step := provider.Step{Step: provider.StepToken, Found: "the identity obtained an access token"}
	if _, err := s.tokens.Get(ctx); err != nil {
		step = provider.Step{Step: step.Step, Err: explainLogin(ctx, err)}
		return append([]provider.Step{step}, provider.Skipped(settingsOf(s.in).Stores)...)
	}
	steps := []provider.Step{step}
	for _, st := range settingsOf(s.in).Stores {
		steps = append(steps, provider.ProbeGranted(ctx, s, s.in, st, noVersion))
	}
	return steps
}

// explainLogin returns the error for a failed token request.
func explainLogin(ctx context.Context, err error) *secret.Error {
	if ctx.Err() != nil {
		return secret.Errorf(secret.ReasonStoreUnavailable, "timed out obtaining an access token; check the network path to Google").WithCause(err)
	}
	return explainRead(ctx, "", secret.Ref{}, err)
}
