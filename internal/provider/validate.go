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

// Step is one thing that was tried to find out whether an integration works.
type Step struct {
	// Name says what was tried, such as "token" or "read https://v.vault.azure.net".
	Name string
	// Err is a *secret.Error that says what is wrong and what to do, nil if it
	// worked.
	Err error
	// Found says what was found where it worked.
	Found string
	// Skipped: it was not tried, because an earlier step failed.
	Skipped bool
}

// Validator is a Provider that can say more of what works than whether a read
// would.
type Validator interface {
	Provider
	// Validate contacts the integration's stores and reports what works, step by
	// step, within ctx. It reads no secret's value.
	Validate(ctx context.Context) []Step
}

// Validate finds out whether an integration works: whether its credentials can be
// read, it is given a token, and each of its stores lets it read. It uses nothing
// that is already open, so that it sees what a broker that starts just now would.
func (s *Set) Validate(ctx context.Context, in *integration.Integration) []Step {
	open, ok := s.cfg.Openers[in.Kind]
	if !ok {
		return []Step{{Name: "open", Err: secret.Errorf(secret.ReasonInternal, "this broker does not know the kind %s", in.Kind)}}
	}
	p, err := open(ctx, in)
	if err != nil {
		return []Step{{Name: "credential", Err: secret.AsError(err)}}
	}
	defer func() { _ = p.Close() }()
	steps := []Step{{Name: "credential", Found: "the settings and files can be used"}}
	if v, ok := p.(Validator); ok {
		return append(steps, v.Validate(ctx)...)
	}
	return append(steps, Probe(ctx, p, in.Kind, in.Policy.Stores())...)
}

// Probe asks each store for a secret that does not exist, as Fetch would: that it is
// not found shows that the identity may read.
func Probe(ctx context.Context, p Provider, kind secret.Kind, stores []string) []Step {
	steps := make([]Step, 0, len(stores))
	for _, store := range stores {
		steps = append(steps, ProbeOne(ctx, p, secret.Ref{Kind: kind, Store: store, Name: missingName()}))
	}
	return steps
}

// ProbeOne is Probe for one store, by a reference that leads to nothing.
func ProbeOne(ctx context.Context, p Provider, nothing secret.Ref) Step {
	step := Step{Name: "read " + nothing.Store}
	sec, err := p.Fetch(ctx, nothing)
	if err == nil {
		sec.Release()
	}
	var e *secret.Error
	switch {
	case err == nil, errors.As(err, &e) && e.Reason == secret.ReasonSecretNotFound:
		step.Found = "the identity may read secrets"
	case ctx.Err() != nil:
		step.Err = secret.Errorf(secret.ReasonStoreUnavailable, "no answer in the time that there was").WithCause(err)
	default:
		step.Err = secret.AsError(err)
	}
	return step
}

// NothingOf returns a reference into a store that leads to nothing, and that an
// identity may read if it may read what the grants give there and no more: a name
// that does not exist, below a prefix that is granted, or else a version that there is
// not, of a name that is granted.
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

// MissingBelow returns a name that begins as a pattern does and that nobody has.
func MissingBelow(pattern string) string {
	return strings.TrimSuffix(pattern, "*") + missingName()
}

// Skipped are the steps that read stores, none of which was tried.
func Skipped(stores []string) []Step {
	steps := make([]Step, len(stores))
	for i, store := range stores {
		steps[i] = Step{Name: "read " + store, Skipped: true}
	}
	return steps
}

// missingName returns the name of a secret that there is not.
func missingName() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("secretbroker-validate-%s", hex.EncodeToString(b[:]))
}
