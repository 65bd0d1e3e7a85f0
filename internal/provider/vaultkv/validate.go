package vaultkv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/secret"
)

var _ provider.Validator = (*store)(nil)

// Validate implements provider.Validator. It logs in, and then asks the server for
// each mount what the token may do there, which reads nothing, also for the metadata that
// is polled. If the server does not
// answer that, Validate reads a secret that does not exist from a KV mount. It reads
// nothing from another engine, because that would generate a credential.
func (s *store) Validate(ctx context.Context) []provider.Step {
	step := provider.Step{Step: provider.StepLogin, Found: "the server issued a token or accepted the configured one"}
	ses, err := s.logins.session(ctx)
	if err == nil && ses.unproven {
		step.Unchecked, step.Found = true, "unknown: the server does not allow a token lookup; only a read can show whether the token is valid"
	}
	if err != nil {
		steps := []provider.Step{{Step: provider.StepLogin, Err: secret.AsError(err)}}
		for _, m := range s.vault.Mounts {
			steps = append(steps, provider.Step{Step: provider.StepReadStore, Store: m.Path, Skipped: true})
			if m.Engine == KV2 && s.vault.Poll > 0 {
				steps = append(steps, provider.Step{Step: provider.StepEvents, Store: m.Path + "/metadata", Skipped: true})
			}
		}
		return steps
	}
	steps := []provider.Step{step}
	for _, m := range s.vault.Mounts {
		steps = append(steps, s.validateMount(ctx, ses, m))
		if m.Engine == KV2 && s.vault.Poll > 0 {
			steps = append(steps, s.validatePoll(ctx, ses, m))
		}
	}
	return steps
}

// noVersion is a version that no secret has.
const noVersion = "999999999"

// maxQueried limits the exact names of which a check asks for the capabilities.
const maxQueried = 8

// validateMount checks whether the token may read what the grants name in a mount. If
// they have exact names, the result is about these. Otherwise it is about a name that
// does not exist and that a pattern matches. The token's policies may be narrower than
// the grants, so a refusal of that name does not mean that the integration does not work.
func (s *store) validateMount(ctx context.Context, ses *session, m Mount) provider.Step {
	step := provider.Step{Step: provider.StepReadStore, Store: m.Path}
	names, patterns := provider.Granted(s.in, func(r authz.Rule) bool { return strings.HasPrefix(r.Secret, m.Path+"/") })
	for _, name := range names[:min(len(names), maxQueried)] {
		one := s.validateName(ctx, ses, m, name)
		if one.Err != nil || one.Unchecked {
			return one
		}
		step.Found = one.Found
	}
	if len(names) > 0 {
		return step
	}
	if len(patterns) > 0 {
		return s.validatePattern(ctx, ses, m, patterns[0])
	}
	if m.Engine == Dynamic {
		step.Found = "no grant covers a path below the mount, so there is nothing to check"
		return step
	}
	return s.validatePattern(ctx, ses, m, m.Path+"/*")
}

const (
	foundGranted = `the token's policies grant the capability "read"`
	foundRead    = "the identity may read secrets"
)

// validateName checks a secret that a grant names exactly.
func (s *store) validateName(ctx context.Context, ses *session, m Mount, name string) provider.Step {
	step := provider.Step{Step: provider.StepReadStore, Store: m.Path}
	may, known := s.mayRead(ctx, ses, m, name)
	switch {
	case known && may:
		step.Found = foundGranted
	case known:
		step.Err = secret.Errorf(secret.ReasonStoreAccessDenied,
			"no policy of the token grants the capability \"read\" on %s in Vault %s, which a grant names; add it to a policy of its role", apiPath(m, name), s.host)
	case m.Engine == KV2:
		step.Err = provider.ProbeName(ctx, s, secret.Ref{Kind: secret.KindHashiCorpVault, Store: s.vault.Address, Name: name, Version: noVersion})
		if step.Err == nil {
			step.Found = foundRead
		}
	default:
		step.Unchecked = true
		step.Found = "unknown: the token may not query its capabilities; only reading a secret or creating a credential can show whether it is allowed"
	}
	return step
}

// validatePattern checks a name that does not exist and that the pattern matches.
func (s *store) validatePattern(ctx context.Context, ses *session, m Mount, pattern string) provider.Step {
	step := provider.Step{Step: provider.StepReadStore, Store: m.Path}
	name := provider.MissingBelow(pattern)
	may, known := s.mayRead(ctx, ses, m, name)
	switch {
	case known && may:
		step.Found = foundGranted
		return step
	case !known && m.Engine == Dynamic:
		step.Unchecked = true
		step.Found = "unknown: the token may not query its capabilities; only creating a credential can show whether it is allowed"
		return step
	case !known:
		err := provider.ProbeName(ctx, s, secret.Ref{Kind: secret.KindHashiCorpVault, Store: s.vault.Address, Name: name})
		switch {
		case err == nil:
			step.Found = foundRead
			return step
		case !errors.Is(err, storeerror.ErrNameDenied):
			step.Err = err
			return step
		}
	}
	step.Unchecked = true
	step.Found = fmt.Sprintf("unknown: the token's policies do not grant the capability \"read\" on all of %s; "+
		"whether they grant it on single secrets can be checked only if a grant has the exact name of one", apiPath(m, pattern))
	return step
}

// validatePoll checks whether the token may read the metadata of secrets in a mount, by the
// first name or pattern of the grants.
func (s *store) validatePoll(ctx context.Context, ses *session, m Mount) provider.Step {
	step := provider.Step{Step: provider.StepEvents, Store: m.Path + "/metadata"}
	names, patterns := provider.Granted(s.in, func(r authz.Rule) bool { return strings.HasPrefix(r.Secret, m.Path+"/") })
	name := provider.MissingBelow(append(patterns, m.Path+"/*")[0])
	if len(names) > 0 {
		name = names[0]
	}
	path := m.Path + "/metadata/" + strings.TrimPrefix(name, m.Path+"/")
	may, known := s.may(ctx, ses, path)
	switch {
	case known && may:
		step.Found = foundGranted
	case known && len(names) > 0:
		step.Err = secret.Errorf(secret.ReasonStoreAccessDenied,
			"no policy of the token grants the capability \"read\" on %s in Vault %s, so vault.events.poll has no effect and watched secrets are read once per time-to-live; add it to a policy of its role, or remove the setting", path, s.host)
	default:
		step.Unchecked = true
		step.Found = fmt.Sprintf("unknown: whether the token may read metadata below %s/metadata/ can be checked only if it may query its capabilities, and if the policy is for all of it or a grant has an exact name", m.Path)
	}
	return step
}

// apiPath returns the path of a secret in the server's API and policies.
func apiPath(m Mount, name string) string {
	if m.Engine == KV2 {
		return m.Path + "/data/" + strings.TrimPrefix(name, m.Path+"/")
	}
	return name
}

// mayRead asks the server what the token may do with a secret. known is false if the
// server does not answer that. Source: the API's "POST /sys/capabilities-self", which
// the policy named default permits.
func (s *store) mayRead(ctx context.Context, ses *session, m Mount, name string) (may, known bool) {
	return s.may(ctx, ses, apiPath(m, name))
}

// may is mayRead for a path of the server's API.
func (s *store) may(ctx context.Context, ses *session, path string) (may, known bool) {
	a, err := s.client.do(ctx, http.MethodPost, ses.token, "sys/capabilities-self", "", map[string][]string{"paths": {path}})
	if err != nil {
		return false, false
	}
	var byPath map[string]json.RawMessage
	var capabilities []string
	if !jsonObject(a.Data, &byPath) || json.Unmarshal(byPath[path], &capabilities) != nil {
		return false, false
	}
	return slices.Contains(capabilities, "read") || slices.Contains(capabilities, "root"), true
}
