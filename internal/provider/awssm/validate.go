package awssm

import (
	"context"
	"strings"

	"github.com/secretbroker/secretbroker/internal/provider"
)

var _ provider.Validator = (*store)(nil)

// noVersion is a version ID that no secret has.
const noVersion = "00000000-0000-4000-8000-000000000000"

// Validate implements provider.Validator. It acquires keys, of the role if there is
// one, and then asks each region for a secret or a version that does not exist. AWS checks the
// permissions before it looks for the secret, so "not found" shows that the identity
// may read.
//
// For a missing secret of another account AWS answers "access denied", so Validate
// does not read from such stores.
func (s *store) Validate(ctx context.Context) []provider.Step {
	var own, others []string
	for _, st := range s.aws.Stores {
		_, account := s.aws.Place(st)
		switch {
		case account != s.aws.AccountID:
			others = append(others, st)
		case !strings.HasPrefix(st, "arn:"): // the same store under another name
			own = append(own, st)
		}
	}
	step := provider.Step{Step: provider.StepSession, Found: "the credential provides keys"}
	if s.aws.Role != nil {
		step.Found = "STS issued a session of the role"
	}
	if _, err := s.sessions.Get(ctx); err != nil {
		step = provider.Step{Step: step.Step, Err: explainGet(ctx, err)}
		return append([]provider.Step{step}, provider.Skipped(append(own, others...))...)
	}
	steps := []provider.Step{step}
	for _, st := range own {
		steps = append(steps, provider.ProbeGranted(ctx, s, s.in, st, noVersion))
	}
	for _, st := range others {
		steps = append(steps, provider.Step{Step: provider.StepReadStore, Store: st, Unchecked: true, Found: "in another account; only reading a secret can show whether it is allowed"})
	}
	return steps
}
