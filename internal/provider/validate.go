package provider

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Step is one check of whether an integration works.
type Step struct {
	// Step is what was checked. Its names are a part of the API.
	Step StepName
	// Store is the store of a StepReadStore, or the source of a StepEvents.
	Store string
	// Err is nil if the check succeeded, and otherwise a *secret.Error that says what is
	// wrong and what to do.
	Err error
	// Found is what a successful check found.
	Found string
	// Skipped is whether the check was not made because an earlier one failed.
	Skipped bool
	// Unchecked is whether the check has no result. Found then says what is not known, and
	// why. It is not a failure.
	Unchecked bool
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
	// StepEvents checks whether the source of events can be used. Store is the name of the
	// source; see integration.EventSettings.
	StepEvents StepName = "EVENTS"
)

// String describes the step for people, such as "token" or
// "read https://v.vault.azure.net".
func (s *Step) String() string {
	switch s.Step {
	case StepReadStore:
		return "read " + s.Store
	case StepEvents:
		return "events of " + s.Store
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
		step := Step{Step: StepReadStore, Store: store, Found: mayRead}
		if step.Err = ProbeName(ctx, p, secret.Ref{Kind: kind, Store: store, Name: missingName()}); step.Err != nil {
			step.Found = ""
		}
		steps = append(steps, step)
	}
	return steps
}

const (
	mayRead = "the identity may read secrets"
	// maxProbed limits the names that one check asks for.
	maxProbed = 8
)

// ProbeGranted checks whether a store permits reads of what the integration's grants
// name. It reads no value. For each name that a grant has exactly, up to maxProbed, it asks
// for version, which no secret has. If there is none, it asks for a name that does not
// exist and that a grant's pattern matches. A store with permissions for single secrets
// denies access to that name whatever it permits otherwise, so the step is then Unchecked.
func ProbeGranted(ctx context.Context, p Provider, in *integration.Integration, store, version string) Step {
	step := Step{Step: StepReadStore, Store: store}
	names, patterns := Granted(in, func(r authz.Rule) bool { return r.Store == store })
	for _, name := range names[:min(len(names), maxProbed)] {
		err := ProbeName(ctx, p, secret.Ref{Kind: in.Kind, Store: store, Name: name, Version: version})
		if errors.Is(err, storeerror.ErrNameDenied) {
			e := secret.AsError(err)
			err = secret.Errorf(e.Reason, "%s, which a grant names: %s", name, e.Message).WithCause(e)
		}
		if err != nil {
			step.Err = err
			return step
		}
	}
	if len(names) > 0 {
		step.Found = "the identity may read " + list(names)
		return step
	}
	name := missingName()
	if len(patterns) > 0 {
		name = MissingBelow(patterns[0])
	}
	err := ProbeName(ctx, p, secret.Ref{Kind: in.Kind, Store: store, Name: name})
	switch {
	case err == nil:
		step.Found = mayRead
	case errors.Is(err, storeerror.ErrNameDenied):
		step.Unchecked = true
		step.Found = "unknown: the store denies access to a name that does not exist, as it does if the identity may read only single secrets, or none; " +
			"no grant has the exact name of a secret to ask for. If it may read none: " + secret.AsError(err).Message
	default:
		step.Err = err
	}
	return step
}

// ProbeName asks for a secret that does not exist, and returns nil if the response shows that
// the identity may read. Stores check permissions first.
func ProbeName(ctx context.Context, p Provider, nothing secret.Ref) error {
	sec, err := p.Fetch(ctx, nothing)
	if err == nil {
		sec.Release()
		return nil
	}
	e := secret.AsError(err)
	switch {
	case e.Reason == secret.ReasonSecretNotFound, e.Reason == secret.ReasonSecretDisabled:
		return nil
	case ctx.Err() != nil:
		return secret.Errorf(secret.ReasonStoreUnavailable, "the store did not answer in time").WithCause(err)
	default:
		return e
	}
}

// Granted returns the exact names of secrets in the grants, and their patterns, of the
// rules that match selects. Each is listed once, in the order of the grants.
func Granted(in *integration.Integration, match func(authz.Rule) bool) (names, patterns []string) {
	for _, rule := range in.Policy.Rules() {
		to := &names
		if strings.HasSuffix(rule.Secret, "*") {
			to = &patterns
		}
		if match(rule) && !slices.Contains(*to, rule.Secret) {
			*to = append(*to, rule.Secret)
		}
	}
	return names, patterns
}

// list formats names that were probed.
func list(names []string) string {
	if more := len(names) - maxProbed; more > 0 {
		return fmt.Sprintf("%s; %d more names in grants are unchecked", strings.Join(names[:maxProbed], ", "), more)
	}
	return strings.Join(names, ", ")
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
