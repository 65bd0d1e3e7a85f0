package provider

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Step is one check of whether an integration works.
type Step struct {
	// Step is what was checked. Its names are a part of the API.
	Step StepName
	// Store is the store of a StepReadStore.
	Store string
	// Err is nil if the check succeeded, and otherwise a *secret.Error that says what is
	// wrong and what to do.
	Err error
	// Found is what a successful check found.
	Found string
	// Skipped is whether the check was not made because an earlier one failed.
	Skipped bool
}

// StepName names a check.
type StepName string

// The checks.
const (
	// StepPlacement checks the organisation's placement rules.
	StepPlacement StepName = "PLACEMENT"
	// StepOpen checks whether the broker supports the kind.
	StepOpen StepName = "OPEN"
	// StepCredential reads the files and settings of the credential.
	StepCredential StepName = "CREDENTIAL"
	// StepSession obtains keys for a session.
	StepSession StepName = "SESSION"
	// StepLogin logs in at the store.
	StepLogin StepName = "LOGIN"
	// StepToken obtains a token from the login authority.
	StepToken StepName = "TOKEN"
	// StepReadStore checks whether a store permits reads.
	StepReadStore StepName = "READ_STORE"
)

// String describes the step for people, such as "token" or
// "read https://v.vault.azure.net".
func (s *Step) String() string {
	if s.Step == StepReadStore {
		return "read " + s.Store
	}
	return strings.ToLower(string(s.Step))
}

// Validator is a Provider with checks that go beyond a read of each store.
type Validator interface {
	Provider
	// Validate contacts the integration's stores and returns the result of each check. It
	// ends with ctx. It reads no secret's value.
	Validate(ctx context.Context) []Step
}

// Validate checks whether an integration works: its credentials can be read, it obtains a
// token, and each of its stores permits reads. It opens a new Provider, so that the result
// is that of a broker that has just started.
func (s *Set) Validate(ctx context.Context, in *integration.Integration) []Step {
	open, ok := s.cfg.Openers[in.Kind]
	if !ok {
		return []Step{{Step: StepOpen, Err: secret.Errorf(secret.ReasonInternal, "this broker does not support the kind %s", in.Kind)}}
	}
	p, err := open(ctx, in)
	if err != nil {
		return []Step{{Step: StepCredential, Err: secret.AsError(err)}}
	}
	defer func() { _ = p.Close() }()
	steps := []Step{{Step: StepCredential, Found: "the settings and files are valid"}}
	if v, ok := p.(Validator); ok {
		return append(steps, v.Validate(ctx)...)
	}
	return append(steps, Probe(ctx, p, in.Kind, in.Policy.Stores())...)
}

// Probe asks each store for a secret that does not exist, as Fetch would. The response
// "not found" shows that the identity may read.
func Probe(ctx context.Context, p Provider, kind secret.Kind, stores []string) []Step {
	steps := make([]Step, 0, len(stores))
	for _, store := range stores {
		steps = append(steps, ProbeOne(ctx, p, secret.Ref{Kind: kind, Store: store, Name: missingName()}))
	}
	return steps
}

// ProbeOne probes one store with a reference to a secret that does not exist.
func ProbeOne(ctx context.Context, p Provider, nothing secret.Ref) Step {
	step := Step{Step: StepReadStore, Store: nothing.Store}
	sec, err := p.Fetch(ctx, nothing)
	if err == nil {
		sec.Release()
	}
	var e *secret.Error
	switch {
	case err == nil, errors.As(err, &e) && e.Reason == secret.ReasonSecretNotFound:
		step.Found = "the identity may read secrets"
	case ctx.Err() != nil:
		step.Err = secret.Errorf(secret.ReasonStoreUnavailable, "the store did not answer in time").WithCause(err)
	default:
		step.Err = secret.AsError(err)
	}
	return step
}

// NothingOf returns a reference to a secret or version that does not exist in the store,
// but that an identity may read if its permissions match the integration's grants exactly:
// a missing name below a granted prefix, or else a missing version of a granted name.
func NothingOf(in *integration.Integration, store, version string) secret.Ref {
	ref := secret.Ref{Kind: in.Kind, Store: store, Name: missingName()}
	exact := ""
	for _, rule := range in.Policy.Rules() {
		switch {
		case rule.Store != store:
		case strings.HasSuffix(rule.Secret, "*"):
			ref.Name = MissingBelow(rule.Secret)
			return ref
		case exact == "":
			exact = rule.Secret
		}
	}
	if exact != "" {
		ref.Name, ref.Version = exact, version
	}
	return ref
}

// MissingBelow returns a name that matches the pattern and that does not exist.
func MissingBelow(pattern string) string {
	return strings.TrimSuffix(pattern, "*") + missingName()
}

// Skipped returns the steps that read stores, all marked as skipped.
func Skipped(stores []string) []Step {
	steps := make([]Step, len(stores))
	for i, store := range stores {
		steps[i] = Step{Step: StepReadStore, Store: store, Skipped: true}
	}
	return steps
}

// missingName returns a random name that no secret has.
func missingName() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("secretbroker-validate-%s", hex.EncodeToString(b[:]))
}
