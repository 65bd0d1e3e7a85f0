package vaultkv

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

var _ provider.Validator = (*store)(nil)

// Validate implements provider.Validator. It logs in, and then asks the server for
// each mount what the token may do there, which reads nothing. If the server does not
// answer that, Validate reads a secret that does not exist from a KV mount. It reads
// nothing from another engine, because that would generate a credential.
func (s *store) Validate(ctx context.Context) []provider.Step {
	step := provider.Step{Step: provider.StepLogin, Found: "the server issued a token or accepted the configured one"}
	ses, err := s.logins.session(ctx)
	if err == nil && ses.unproven {
		step.Found = "the server does not allow a token lookup; only a read can show whether the token is valid"
	}
	if err != nil {
		steps := []provider.Step{{Step: provider.StepLogin, Err: secret.AsError(err)}}
		for _, m := range s.vault.Mounts {
			steps = append(steps, provider.Step{Step: provider.StepReadStore, Store: m.Path, Skipped: true})
		}
		return steps
	}
	steps := []provider.Step{step}
	for _, m := range s.vault.Mounts {
		steps = append(steps, s.validateMount(ctx, ses, m))
	}
	return steps
}

func (s *store) validateMount(ctx context.Context, ses *session, m Mount) provider.Step {
	name, granted := s.nameBelow(m)
	step := provider.Step{Step: provider.StepReadStore, Store: m.Path}
	if m.Engine == Dynamic && !granted {
		step.Found = "no grant covers a path below the mount, so there is nothing to check"
		return step
	}
	may, known := s.mayRead(ctx, ses, m, name)
	switch {
	case known && may:
		step.Found = "the token's policies grant the capability \"read\""
	case known:
		path := m.Path
		if m.Engine == KV2 {
			path += "/data"
		}
		step.Err = secret.Errorf(secret.ReasonStoreAccessDenied,
			"no policy of the token grants the capability \"read\" below %s in Vault %s; add one to its role", path, s.host)
	case m.Engine == Dynamic:
		step.Found = "the token may not query its capabilities; only reading a credential, which creates one, can show whether it is allowed"
	default:
		step.Err = provider.ProbeOne(ctx, s, secret.Ref{Kind: secret.KindHashiCorpVault, Store: s.vault.Address, Name: provider.MissingBelow(m.Path + "/*")}).Err
		if step.Err == nil {
			step.Found = "the identity may read secrets"
		}
	}
	return step
}

// nameBelow returns a name in the mount that the grants permit. If they permit a
// pattern, the name is one that no secret has. granted is false if no grant is about
// the mount.
func (s *store) nameBelow(m Mount) (name string, granted bool) {
	exact := ""
	for _, rule := range s.in.Policy.Rules() {
		switch {
		case !strings.HasPrefix(rule.Secret, m.Path+"/"):
		case strings.HasSuffix(rule.Secret, "*"):
			return provider.MissingBelow(rule.Secret), true
		case exact == "":
			exact = rule.Secret
		}
	}
	if exact != "" {
		return exact, true
	}
	return provider.MissingBelow(m.Path + "/*"), false
}

// mayRead asks the server what the token may do with a secret. known is false if the
// server does not answer that. Source: the API's "POST /sys/capabilities-self", which
// the policy named default permits.
func (s *store) mayRead(ctx context.Context, ses *session, m Mount, name string) (may, known bool) {
	path := name
	if m.Engine == KV2 {
		path = m.Path + "/data/" + strings.TrimPrefix(name, m.Path+"/")
	}
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
