package resolve_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestConnectorConfiguration checks the meaning of the secret.manager properties that
// Confluent documents.
func TestConnectorConfiguration(t *testing.T) {
	whole := map[string]string{
		"connector.class":                        "SqlServerCdcSourceV2",
		"database.password":                      vault + "::db-secret::password",
		"database.user":                          vault + "::db-secret::user",
		"looks.like.a.reference":                 vault + "::forbidden",
		"kafka.api.secret":                       "canary-unlisted",
		"secret.manager.enabled":                 "true",
		"secret.manager":                         "AZURE_KEY_VAULT",
		"secret.manager.managed.configs":         "database.password, database.user",
		"secret.manager.provider.integration.id": "cspi",
	}
	with := func(changes ...string) map[string]string {
		m := maps.Clone(whole)
		for i := 0; i < len(changes); i += 2 {
			if changes[i+1] == "-" {
				delete(m, changes[i])
			} else {
				m[changes[i]] = changes[i+1]
			}
		}
		return m
	}
	tests := []struct {
		name    string
		configs map[string]string
		want    string // names of the resolved configs
		faults  string // "name reason" of each failing one
	}{
		{"as documented", with(), "database.password database.user", ""},
		{"without its own integration id", with("secret.manager.provider.integration.id", "-"), "database.password database.user", ""},
		{"switched off", with("secret.manager.enabled", "false"), "", ""},
		{"upper case", with("secret.manager.enabled", "TRUE"), "database.password database.user", ""},
		{"neither on nor off", with("secret.manager.enabled", "yes"), "", "secret.manager.enabled CONFIG_MISMATCH"},
		{"without the switch", with("secret.manager.enabled", "-"), "", "secret.manager.enabled CONFIG_MISMATCH"},
		{"another store", with("secret.manager", "CONJUR"), "", "secret.manager CONFIG_MISMATCH"},
		{"no store", with("secret.manager", "-"), "", "secret.manager CONFIG_MISMATCH"},
		{"no list", with("secret.manager.managed.configs", "-"), "", "secret.manager.managed.configs CONFIG_MISMATCH"},
		{"empty list", with("secret.manager.managed.configs", " "), "", "secret.manager.managed.configs CONFIG_MISMATCH"},
		{"empty element", with("secret.manager.managed.configs", "database.user,,"), "", "secret.manager.managed.configs CONFIG_MISMATCH"},
		{"absent config", with("secret.manager.managed.configs", "database.user,database.pasword"), "", "database.pasword CONFIG_MISMATCH"},
		{"empty config", with("database.user", " "), "", "database.user CONFIG_MISMATCH"},
		{"listed twice", with("secret.manager.managed.configs", "database.user,database.user"), "", "database.user CONFIG_MISMATCH"},
		{"its own property", with("secret.manager.managed.configs", "secret.manager"), "", "secret.manager CONFIG_MISMATCH"},
		{"misspelt property", with("secret.manager.managed.config", "x"), "", "secret.manager.managed.config CONFIG_MISMATCH"},
		{"another integration", with("secret.manager.provider.integration.id", "cspi-2"), "", "secret.manager.provider.integration.id CONFIG_MISMATCH"},
		{"a value that is not a reference", with("database.password", "canary-pasted"), "", "database.password INVALID_REFERENCE"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			res, err := b.call(worker, resolve.Request{Configs: tt.configs})
			var names, faults []string
			if res != nil {
				for _, c := range res.Configs {
					names = append(names, c.Config)
				}
			}
			var failure *resolve.Failure
			if errors.As(err, &failure) {
				for _, c := range failure.Configs {
					faults = append(faults, fmt.Sprint(c.Config, " ", c.Err.Reason))
				}
			} else if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(names, " "); got != tt.want {
				t.Errorf("resolved %q, want %q", got, tt.want)
			}
			if got := strings.Join(faults, ", "); got != tt.faults {
				t.Errorf("errors %q, want %q", got, tt.faults)
			}
			if text := fmt.Sprint(err, b.audit.String()); strings.Contains(text, "canary") {
				t.Errorf("a message contains a config's value: %s", text)
			}
		})
	}
}

// TestConnectorContradictionIsNeverPartial: with contradicting properties it is unclear which
// configs are references, so the broker resolves none.
func TestConnectorContradictionIsNeverPartial(t *testing.T) {
	b := newBench(t)
	res, err := b.call(worker, resolve.Request{AllowPartial: true, Configs: map[string]string{
		"p":                              vault + "::plain",
		"secret.manager.enabled":         "true",
		"secret.manager":                 string(secret.KindAzureKeyVault),
		"secret.manager.managed.configs": "p",
		"secret.manager.enabeld":         "x",
	}})
	if res != nil || err == nil {
		t.Fatalf("got %v, %v", res, err)
	}
}

// TestHugeListsCostLittle: the number of errors stays small whatever a caller without a grant
// writes into the list.
func TestHugeListsCostLittle(t *testing.T) {
	b := newBench(t)
	properties := func(managed string) map[string]string {
		return map[string]string{
			"secret.manager.enabled": "true", "secret.manager": "AZURE_KEY_VAULT", "secret.manager.managed.configs": managed,
		}
	}
	wrong := make(map[string]string)
	for i := range 900 {
		wrong[fmt.Sprintf("secret.manager.enabled%02x", i)] = "x"
	}
	for name, configs := range map[string]map[string]string{
		"elements":   properties(strings.Repeat("a,", 500_000)),
		"an element": properties(strings.Repeat("a", 500_000)),
		"properties": wrong,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.call(nobody, resolve.Request{Configs: configs})
			if n := len(fmt.Sprint(err)) + len(b.audit.String()); err == nil || n > 200_000 {
				t.Errorf("error and audit take %d bytes", n)
			}
			b.audit.Take()
		})
	}
}

// TestLookalikesAreNoProperties: properties that only look like secret.manager properties are
// ordinary configs. internal/connectorfile makes the same decision when it sends configs.
func TestLookalikesAreNoProperties(t *testing.T) {
	b := newBench(t)
	res, err := b.call(worker, resolve.Request{AllowPartial: true, Configs: map[string]string{
		"secret.managers.note": vault + "::plain", "secret.manager-old": vault + "::plain", "p": vault + "::other",
	}})
	if err != nil || len(res.Configs) != 2 || len(res.Errors) != 1 {
		t.Errorf("got %+v, %v", res, err)
	}
}

// TestUnknownProperties: Resolve ignores properties that Confluent may add, and refuses
// those that look like a misspelt known one. Check refuses both.
func TestUnknownProperties(t *testing.T) {
	for name, refused := range map[string]bool{
		// Names that Confluent could add, in the manner of its other properties.
		"secret.manager.refresh.mode":                false,
		"secret.manager.refresh.interval.ms":         false,
		"secret.manager.provider.integration":        false,
		"secret.manager.managed.configs.version":     false,
		"secret.manager.auto.refresh.enabled":        false,
		"secret.manager.provider":                    false,
		"secret.manager." + strings.Repeat("x", 200): false,
		// Misspelt ones.
		"secret.manager.enable":                    true,
		"secret.manager.enabeld":                   true,
		"secret.manager.Enabled":                   true,
		"secret.manager.":                          true,
		"secret.manager.s":                         true,
		"secret.manager.managed.config":            true,
		"secret.manager.managed-configs":           true,
		"secret.manager.manged.configss":           true,
		"secret.manager.provider.integration.ids":  true,
		"secret.manager.provider.integration_id":   true,
		"secret.manager.provider.integrations.ids": true,
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			configs := map[string]string{
				"p": vault + "::plain", "secret.manager.enabled": "true", "secret.manager": "AZURE_KEY_VAULT",
				"secret.manager.managed.configs": "p", name: "canary",
			}
			res, err := b.call(worker, resolve.Request{Configs: configs})
			if (err != nil) != refused || !refused && (len(res.Configs) != 1 || res.Configs[0].Config != "p") {
				t.Errorf("Resolve: %+v, %v", res, err)
			}
			reports, err := b.Check(t.Context(), resolve.Caller{Principal: worker}, resolve.Request{ID: "1", IntegrationID: "cspi", Configs: configs})
			if err != nil || len(reports) == 0 {
				t.Fatalf("Check: %+v, %v", reports, err)
			}
			last := reports[len(reports)-1]
			if last.Config != name || last.Err == nil || last.Err.Reason != secret.ReasonConfigMismatch {
				t.Fatalf("Check: %+v", last)
			}
			if !refused && (len(reports) != 2 || reports[0].Config != "p" || reports[0].Err != nil) {
				t.Errorf("Check: %+v", reports)
			}
			if text := last.Err.Error(); strings.Contains(text, "canary") || refused != strings.Contains(text, "did you mean secret.manager") {
				t.Errorf("Check: %s", text)
			}
		})
	}
}

// TestUnknownPropertyAlone: a configuration with only an unknown property is a connector's
// configuration that lacks the known ones, and not a list of references.
func TestUnknownPropertyAlone(t *testing.T) {
	b := newBench(t)
	_, err := b.call(worker, resolve.Request{Configs: map[string]string{"p": vault + "::plain", "secret.manager.refresh.mode": "x"}})
	var failure *resolve.Failure
	if !errors.As(err, &failure) || len(failure.Configs) != 1 || failure.Configs[0].Config != "secret.manager.enabled" {
		t.Errorf("got %v", err)
	}
}
