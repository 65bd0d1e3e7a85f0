package providertest

import (
	"context"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Steps formats the steps of a validation as "NAME ok|skipped|unchecked|REASON, ...".
func Steps(steps []provider.Step) string {
	texts := make([]string, len(steps))
	for i, s := range steps {
		switch {
		case s.Skipped:
			texts[i] = s.String() + " skipped"
		case s.Unchecked:
			texts[i] = s.String() + " unchecked"
		case s.Err != nil:
			texts[i] = s.String() + " " + string(secret.AsError(s.Err).Reason)
		default:
			texts[i] = s.String() + " ok"
		}
	}
	return strings.Join(texts, ", ")
}

// Grant sets the grants of an integration: one caller may read the secrets, in all
// stores. If secrets is empty, no caller may read anything. section is a section of
// the kind with these stores.
func Grant(t testing.TB, spec integration.Spec, in *integration.Integration, section string, secrets []string) {
	t.Helper()
	document := "id: x\nkind: " + string(in.Kind) + "\n" + section + "\n"
	if secrets != nil {
		document += "grants: [{principals: [dns:a.example.org], secrets: " + List(secrets) + "}]\n"
	}
	parsed := integration.NewKinds(spec).ParseDocument([]byte(document), integration.DocumentConfig{Credentials: map[string]integration.Credential{
		"vault.auth.token": func(context.Context) ([]byte, error) { return nil, nil },
	}})
	if parsed.Integration == nil {
		t.Fatal(parsed.Faults.Err())
	}
	in.Policy = parsed.Integration.Policy
}

// List formats a list as in a document.
func List(texts []string) string { return `["` + strings.Join(texts, `", "`) + `"]` }
