package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/devmode"
	"github.com/secretbroker/secretbroker/internal/tracing/otlp/otlptest"
)

const vault = devmode.VaultURL

// request asks for references through the sample integration.
func request(kv ...string) client.ResolveRequest {
	req := client.ResolveRequest{IntegrationID: devmode.IntegrationID, Configs: make(map[string]string)}
	for i := 0; i < len(kv); i += 2 {
		req.Configs[kv[i]] = kv[i+1]
	}
	return req
}

// vaultFault puts the sample vault into a state.
func vaultFault(fault string) func(*devmode.Environment) error {
	return func(env *devmode.Environment) error {
		return edit(env.SecretsFile, "  your-key-vault-name:\n", "  your-key-vault-name:\n    fault: "+fault+"\n")
	}
}

// TestEveryReason causes each reason like a user, through the whole broker and the real
// Azure SDK. Tests of internal/server cover UNAUTHENTICATED and INTERNAL, and those of
// internal/provider/azurekv cover STORE_NOT_FOUND, which needs a name lookup.
func TestEveryReason(t *testing.T) {
	const secretRef = vault + "::sqlserver-db-secret"
	zero := time.Duration(0)
	tests := []struct {
		reason client.Reason
		code   codes.Code
		change func(*devmode.Environment) error
		first  *client.ResolveRequest // sent before
		req    client.ResolveRequest
		short  bool // the caller has a short deadline
	}{
		{reason: "INVALID_REQUEST", code: codes.InvalidArgument, req: client.ResolveRequest{IntegrationID: "a:b"}},
		{reason: "INVALID_REFERENCE", code: codes.InvalidArgument, req: request("p", "http://my-vault.vault.azure.net::s")},
		{reason: "CONFIG_MISMATCH", code: codes.InvalidArgument, req: request("secret.manager.enabled", "true")},
		{reason: "ACCESS_DENIED", code: codes.PermissionDenied, req: request("p", vault+"::oracle-password")},
		{reason: "STORE_NOT_ALLOWED", code: codes.PermissionDenied, req: request("p", "https://another-key-vault.vault.azure.net::sqlserver-db-secret")},
		{reason: "SECRET_NOT_FOUND", code: codes.NotFound, req: request("p", vault+"::sqlserver-nope")},
		{reason: "SECRET_NOT_FOUND", code: codes.NotFound, req: request("p", vault+"::sqlserver-deleted")},
		{reason: "JSON_KEY_NOT_FOUND", code: codes.NotFound, req: request("p", secretRef+"::PASSWORD")},
		{reason: "SECRET_NOT_JSON", code: codes.FailedPrecondition, req: request("p", vault+"::postgres-password::key")},
		{reason: "SECRET_DISABLED", code: codes.FailedPrecondition, req: request("p", vault+"::sqlserver-disabled")},
		{reason: "SECRET_EXPIRED", code: codes.FailedPrecondition, req: request("p", vault+"::sqlserver-expired")},
		{reason: "SECRET_NOT_YET_VALID", code: codes.FailedPrecondition, req: request("p", vault+"::sqlserver-not-yet-valid")},
		{reason: "STORE_ACCESS_DENIED", code: codes.FailedPrecondition, change: vaultFault("forbidden"), req: request("p", secretRef)},
		{
			reason: "STORE_AUTHENTICATION_FAILED", code: codes.FailedPrecondition, req: request("p", secretRef),
			change: func(env *devmode.Environment) error { return replace(env.ClientSecretFile, "not the secret") },
		},
		{reason: "STORE_THROTTLED", code: codes.ResourceExhausted, change: vaultFault("throttled"), req: request("p", secretRef)},
		{reason: "STORE_UNAVAILABLE", code: codes.Unavailable, change: vaultFault("unavailable"), req: request("p", secretRef)},
		{
			reason: "STORE_UNAVAILABLE", code: codes.Unavailable, req: request("p", secretRef),
			change: func(env *devmode.Environment) error { return replace(env.KeyVaultCAFile, readFile(env.CAFile)) },
		},
		{
			reason: "OVERLOADED", code: codes.ResourceExhausted, short: true,
			first: func() *client.ResolveRequest { r := request("p", secretRef); return &r }(),
			req:   func() client.ResolveRequest { r := request("p", secretRef); r.MaxAge = &zero; return r }(),
		},
		{
			reason: "AUDIT_UNAVAILABLE", code: codes.Unavailable, req: request("p", secretRef),
			change: func(env *devmode.Environment) error {
				return edit(env.ConfigFile, "file: audit.jsonl", "file: /dev/full")
			},
		},
	}
	for _, tt := range tests {
		t.Run(string(tt.reason), func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, tt.change)
			c := b.as(t, b.Worker)
			if tt.first != nil {
				if _, err := c.Resolve(t.Context(), *tt.first); err != nil {
					t.Fatal(err)
				}
			}
			ctx := t.Context()
			if tt.short {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 300*time.Millisecond)
				defer cancel()
			}
			res, err := c.Resolve(ctx, tt.req)
			var e *client.Error
			if !errors.As(err, &e) {
				t.Fatalf("got %v, %v", res, err)
			}
			if e.Reason != tt.reason || e.Code != tt.code || e.RequestID == "" {
				t.Errorf("got %s, %v, request %q: %v", e.Reason, e.Code, e.RequestID, err)
			}
			if tt.reason != "AUDIT_UNAVAILABLE" && !strings.Contains(b.auditText(t), e.RequestID) {
				t.Errorf("the audit does not have request %s", e.RequestID)
			}
			retryable := e.Code == codes.Unavailable || e.Code == codes.ResourceExhausted
			if (e.RetryAfter > 0) != retryable {
				t.Errorf("retry after %v", e.RetryAfter)
			}
		})
	}
}

func readFile(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// TestNoValueIsInOutput puts values everywhere a secret can be and searches for them in all
// output of the broker: the log at debug level, the audit log, metrics, readiness, errors.
func TestNoValueIsInOutput(t *testing.T) {
	const canary = "canary-4d1f"
	collector := otlptest.Start(t, nil)
	b := newBroker(t, func(env *devmode.Environment) error {
		if err := tracingTo("endpoint: '" + collector.Addr + "', insecure: true, max_calls_per_second: 10000")(env); err != nil {
			return err
		}
		return replace(env.SecretsFile, `
vaults:
  your-key-vault-name:
    secrets:
      sqlserver-plain: {value: `+canary+`-plain}
      sqlserver-json: {value: '{"password":"`+canary+`-field","null":null,"twice":1}'}
      sqlserver-twice: {value: '{"a":"`+canary+`","a":"`+canary+`"}'}
      sqlserver-torn: {value: '{"a":"`+canary+`'}
      sqlserver-list: {value: '["`+canary+`"]'}
      sqlserver-disabled: {value: `+canary+`, enabled: false}
      sqlserver-expired: {value: `+canary+`, expires: 2020-01-01T00:00:00Z}
      sqlserver-binary: {value: "`+canary+`\u0000\u001b[2J"}
      oracle-password: {value: `+canary+`-denied}
`)
	})
	var answers strings.Builder
	ask := func(who devmode.Identity, req client.ResolveRequest) {
		c := b.as(t, who)
		for _, partial := range []bool{false, true} {
			req.AllowPartial = partial
			ctx := metadata.AppendToOutgoingContext(traced(t.Context()), "tracestate", "a="+canary, "baggage", "a="+canary, canary, canary)
			res, err := c.Resolve(ctx, req)
			fmt.Fprintf(&answers, "%v %+v %#v %v %+v %#v\n", res, res, res, err, err, err)
			var e *client.Error
			if errors.As(err, &e) {
				fmt.Fprintf(&answers, "%+v\n", *e)
			}
		}
	}
	refs := make(map[string]string)
	for i, ref := range []string{
		"plain", "plain::key", "json", "json::password", "json::null", "json::absent", "twice", "twice::a", "torn::a", "list::a",
		"disabled", "expired", "binary", "binary::a", "absent", "plain#00000000000000000000000000000000",
	} {
		refs[fmt.Sprint("c", i)] = vault + "::sqlserver-" + ref
	}
	for name, ref := range maps.Clone(refs) {
		ask(b.Worker, request(name, ref))
	}
	ask(b.OtherWorker, client.ResolveRequest{IntegrationID: devmode.IntegrationID, Configs: refs})
	refs["denied"] = vault + "::oracle-password"
	refs["pasted"] = canary + "-pasted"
	refs["pasted-url"] = "https://user:" + canary + "@my-vault.vault.azure.net::secret::" + canary
	refs["pasted-name"] = vault + "::" + canary + " with spaces"
	refs["pasted-version"] = vault + "::sqlserver-plain#" + canary
	refs["pasted-host"] = "https://" + canary + ".example.org::secret"
	ask(b.Worker, client.ResolveRequest{IntegrationID: devmode.IntegrationID, Configs: refs})
	ask(b.Worker, client.ResolveRequest{IntegrationID: canary + "/", Configs: refs})
	ask(b.Worker, client.ResolveRequest{IntegrationID: devmode.IntegrationID, Connector: strings.Repeat(canary, 100), Configs: refs})
	ask(b.Worker, request(
		"secret.manager.enabled", canary, "secret.manager", canary, "secret.manager.managed.configs", "p", "p", canary,
		"secret.manager.provider.integration.id", canary, "unlisted", canary))
	ask(b.Worker, request(
		"secret.manager.enabled", "true", "secret.manager", "AZURE_KEY_VAULT", "secret.manager.managed.configs", "p", "p", canary,
		"unlisted", canary))
	for _, fault := range []string{"forbidden", "throttled", "unavailable"} {
		if err := edit(b.SecretsFile, "  your-key-vault-name:\n", "  your-key-vault-name:\n    fault: "+fault+"\n"); err != nil {
			t.Fatal(err)
		}
		ask(b.Worker, request("p", vault+"::sqlserver-"+fault))
		if err := edit(b.SecretsFile, "    fault: "+fault+"\n", ""); err != nil {
			t.Fatal(err)
		}
	}
	clientSecret := strings.TrimSpace(readFile(b.ClientSecretFile))
	if err := edit(b.SecretsFile, "value: ", "valeu: "); err != nil { // a broken file, with the values next to the error
		t.Fatal(err)
	}
	ask(b.Worker, request("p", vault+"::sqlserver-late"))

	traces := func() string { // read after everything else
		if err := b.stop(); err != nil {
			t.Fatal(err)
		}
		return collector.Text(t)
	}
	for where, text := range map[string]string{
		"errors and answers": answers.String(),
		"log":                b.log.String(),
		"audit":              b.auditText(t),
		"metrics":            b.get(t, "/metrics"),
		"readyz":             b.get(t, "/readyz"),
		"traces":             traces(),
	} {
		if i := strings.Index(text, canary); i >= 0 {
			t.Errorf("the %s contains a value: ...%s...", where, text[max(0, i-200):min(len(text), i+100)])
		}
		if strings.Contains(text, clientSecret) || strings.Contains(text, "PRIVATE KEY") {
			t.Errorf("the %s contains a credential", where)
		}
	}
	if !strings.Contains(b.log.String(), "could not be resolved") || strings.Count(b.auditText(t), "\n") < len(refs) {
		t.Error("the broker has too little output for this test")
	}
	if n := len(collector.Wait(t.Context(), 0)); n < len(refs) {
		t.Errorf("there are only %d spans", n)
	}
}

// TestGrantsTakeEffect: removed and added grants take effect without a restart, also for
// values in the cache.
func TestGrantsTakeEffect(t *testing.T) {
	b := newBroker(t, nil)
	worker, other := b.as(t, b.Worker), b.as(t, b.OtherWorker)
	req := request("p", vault+"::postgres-password")
	if _, err := worker.Resolve(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if err := edit(b.IntegrationFile, "spiffe://example.org/connect/*", "spiffe://example.org/other/*"); err != nil {
		t.Fatal(err)
	}
	asynctest.Eventually(t, "the other worker is granted", func() bool {
		_, err := other.Resolve(t.Context(), req)
		return err == nil
	})
	_, err := worker.Resolve(t.Context(), req)
	var e *client.Error
	if !errors.As(err, &e) || e.Reason != client.ReasonAccessDenied {
		t.Errorf("after its grant was removed the worker gets %v", err)
	}
}

// TestBrokenReloadKeepsTheLastGood: after an edit that makes a file invalid, the previous
// version stays in effect and readiness reports the error. A fixed file takes effect.
func TestBrokenReloadKeepsTheLastGood(t *testing.T) {
	b := newBroker(t, nil)
	c := b.as(t, b.Worker)
	good := readFile(b.IntegrationFile)
	if err := replace(b.IntegrationFile, strings.Replace(good, "grants:", "grant:", 1)); err != nil {
		t.Fatal(err)
	}
	asynctest.Eventually(t, "readiness names the broken file", func() bool {
		return strings.Contains(b.get(t, "/readyz"), filepath.Base(b.IntegrationFile))
	})
	if page := b.get(t, "/readyz"); !strings.Contains(page, "200 OK") {
		t.Errorf("one broken file made the broker unready: %s", page)
	}
	if _, err := c.Resolve(t.Context(), request("p", vault+"::postgres-password")); err != nil {
		t.Errorf("the previous integration is not in effect: %v", err)
	}
	if err := replace(b.IntegrationFile, good); err != nil {
		t.Fatal(err)
	}
	asynctest.Eventually(t, "readiness is clean", func() bool {
		return !strings.Contains(b.get(t, "/readyz"), "problems")
	})
}

// TestRotatedClientSecret: the broker uses a renewed credential without a restart.
func TestRotatedClientSecret(t *testing.T) {
	var good string
	b := newBroker(t, func(env *devmode.Environment) error {
		good = readFile(env.ClientSecretFile)
		return replace(env.ClientSecretFile, "expired one")
	})
	c := b.as(t, b.Worker)
	req := request("p", vault+"::postgres-password")
	var e *client.Error
	if _, err := c.Resolve(t.Context(), req); !errors.As(err, &e) || e.Reason != client.ReasonStoreAuthenticationFailed {
		t.Fatalf("got %v", err)
	}
	if err := replace(b.ClientSecretFile, good); err != nil {
		t.Fatal(err)
	}
	asynctest.Eventually(t, "the renewed secret is used", func() bool {
		_, err := c.Resolve(t.Context(), req)
		return err == nil
	})
}
