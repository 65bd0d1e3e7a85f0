package manage_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/manage"
	"github.com/secretbroker/secretbroker/internal/placement"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	awsSample = `id: cspi-aws
kind: AWS_SECRETS_MANAGER
aws:
  stores: [https://secretsmanager.eu-west-1.amazonaws.com]
  role: {arn: "arn:aws:iam::123456789012:role/reader"}
  credential: {type: static}
grants:
  - principals: [spiffe://example.org/connect/*]
    secrets: [prod/*]
`
	gcpSample = `id: cspi-gcp
kind: GCP_SECRET_MANAGER
gcp:
  projects: [projects/my-project]
  impersonate_service_account: reader@my-project.iam.gserviceaccount.com
  credential: {type: service_account_key}
`
	vaultSample = `id: cspi-vault
kind: HASHICORP_VAULT
vault:
  address: https://vault.example.org:8200
  mounts: [{path: secret, engine: kv2}, {path: legacy, engine: kv1}]
  auth: {type: approle, role_id: r}
`
)

func decoded(t *testing.T, text string) manage.Document {
	t.Helper()
	f := kinds.All().DecodeDocument("f", []byte(text+"roles: {resource_owner: ["+string(owner)+"]}\n"))
	if err := f.Faults.Err(); err != nil {
		t.Fatal(err)
	}
	return f.Document
}

func secrets(names ...string) map[string]secret.Value {
	m := make(map[string]secret.Value)
	for _, name := range names {
		m[name] = secret.NewValue([]byte(canary))
	}
	return m
}

func awsKeys() map[string]secret.Value {
	return secrets("aws.credential.access_key_id", "aws.credential.secret_access_key")
}

func factOf(in manage.Integration, name string) string {
	for _, f := range in.Facts {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

// TestExternalID: the broker generates a unique external ID for a role without one. It stays,
// and the owner of an integration cannot set it to that of another one.
func TestExternalID(t *testing.T) {
	b := newBench(t, placement.Config{})
	doc := decoded(t, awsSample)
	created, err := b.Create(t.Context(), as(orgOwner), doc, awsKeys(), manage.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	id := factOf(created, "External ID")
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(id) {
		t.Fatalf("the external ID is %q", id)
	}
	for _, in := range []manage.Integration{created, b.get(t, "cspi-aws")} {
		trust := factOf(in, "Trust policy of the role arn:aws:iam::123456789012:role/reader")
		permissions := factOf(in, "Permissions of the role arn:aws:iam::123456789012:role/reader")
		if !strings.Contains(trust, `"sts:ExternalId": "`+id+`"`) || !strings.Contains(permissions, "secret:prod/*") {
			t.Errorf("%s\n%s", trust, permissions)
		}
	}
	all, _, err := b.List(t.Context(), as(orgOwner), manage.ListOptions{})
	if err != nil || len(all) != 1 || slices.ContainsFunc(all[0].Facts, func(f manage.Fact) bool { return strings.Contains(f.Value, "\n") }) {
		t.Errorf("a list has documents: %+v, %v", all, err)
	}
	other := doc
	other.ID = "cspi-other"
	second, err := b.Create(t.Context(), as(orgOwner), other, awsKeys(), manage.WriteOptions{})
	if got := factOf(second, "External ID"); err != nil || got == id || got == "" {
		t.Errorf("two integrations have the external ID %q: %v", got, err)
	}

	edit := func(who authz.Principal, role func(map[string]any)) (manage.Integration, []string, error) {
		f := doc
		change(t, &f, func(s map[string]any) { role(s["role"].(map[string]any)) })
		return b.Update(t.Context(), as(who), f, []string{"settings"}, nil, manage.WriteOptions{})
	}
	// The document has no external ID, as its file.
	in, changed, err := edit(owner, func(role map[string]any) { role["duration"] = "30m" })
	if err != nil || factOf(in, "External ID") != id || !slices.Equal(changed, []string{"aws.role.duration"}) {
		t.Errorf("changed %v, external ID %q, %v", changed, factOf(in, "External ID"), err)
	}
	if _, _, err := edit(owner, func(role map[string]any) { role["external_id"] = "another-one" }); reasonOf(err) != secret.ReasonAccessDenied {
		t.Errorf("an owner changed an external ID: %v", err)
	}
	if in, _, err := edit(orgOwner, func(role map[string]any) { role["external_id"] = "another-one" }); err != nil || factOf(in, "External ID") != "another-one" {
		t.Errorf("the owner of all: %v", err)
	}
}

// TestRoleLater: the owner of an integration without a role can add one.
func TestRoleLater(t *testing.T) {
	b := newBench(t, placement.Config{})
	doc := decoded(t, strings.Replace(awsSample, `role: {arn: "arn:aws:iam::123456789012:role/reader"}`, `account_id: "123456789012"`, 1))
	in, err := b.Create(t.Context(), as(orgOwner), doc, awsKeys(), manage.WriteOptions{})
	if err != nil || factOf(in, "External ID") != "" {
		t.Fatalf("%v, %v", in.Facts, err)
	}
	change(t, &doc, func(s map[string]any) { s["role"] = map[string]any{"arn": "arn:aws:iam::123456789012:role/reader"} })
	in, _, err = b.Update(t.Context(), as(owner), doc, []string{"settings"}, nil, manage.WriteOptions{})
	if err != nil || len(factOf(in, "External ID")) != 36 {
		t.Errorf("%v, %v", in.Facts, err)
	}
}

// TestOwnersOfKinds: the settings that the owner of one integration may change, and those
// that would make the broker send its credential elsewhere or use its own machine.
func TestOwnersOfKinds(t *testing.T) {
	for _, tt := range []struct {
		sample      string
		credentials map[string]secret.Value
		setting     string
		value       any
		want        secret.Reason // for the integration's owner
	}{
		{vaultSample, secrets("vault.auth.secret_id"), "mounts", []any{map[string]any{"path": "other", "engine": "kv2"}}, ""},
		{vaultSample, secrets("vault.auth.secret_id"), "namespace", "team", ""},
		{vaultSample, secrets("vault.auth.secret_id"), "address", "https://elsewhere.example.org:8200", secret.ReasonAccessDenied},
		{vaultSample, secrets("vault.auth.secret_id"), "dial", "10.0.0.1:8200", secret.ReasonAccessDenied},
		{vaultSample, secrets("vault.auth.secret_id"), "private_endpoint", true, secret.ReasonAccessDenied},
		{vaultSample, secrets("vault.auth.secret_id"), "auth", map[string]any{"type": "jwt", "role": "r", "token_file": "/run/token"}, secret.ReasonAccessDenied},
		{vaultSample, secrets("vault.auth.secret_id"), "auth", map[string]any{"type": "kubernetes", "role": "r"}, secret.ReasonAccessDenied},
		{awsSample, awsKeys(), "stores", []any{"https://secretsmanager.eu-west-1.amazonaws.com", "https://secretsmanager.us-east-1.amazonaws.com"}, ""},
		{awsSample, awsKeys(), "credential", map[string]any{"type": "default"}, secret.ReasonAccessDenied},
		{awsSample, awsKeys(), "credential", map[string]any{"type": "profile", "profile": "p", "credentials_file": "/root/.aws/credentials"}, secret.ReasonAccessDenied},
		{awsSample, awsKeys(), "sts_endpoint", "https://elsewhere.example.org", secret.ReasonAccessDenied},
		{gcpSample, secrets("gcp.credential.key"), "projects", []any{"projects/another-project"}, ""},
		{gcpSample, secrets("gcp.credential.key"), "credential", map[string]any{"type": "metadata_server"}, secret.ReasonAccessDenied},
		{gcpSample, secrets("gcp.credential.key"), "events", map[string]any{"subscription": "projects/my-project/subscriptions/s-1"}, ""},
		{gcpSample, secrets("gcp.credential.key"), "events", map[string]any{"subscription": "projects/my-project/subscriptions/s-1", "credential": map[string]any{"type": "metadata_server"}}, secret.ReasonAccessDenied},
		{gcpSample, secrets("gcp.credential.key"), "credential", map[string]any{"type": "application_default"}, secret.ReasonAccessDenied},
		{gcpSample, secrets("gcp.credential.key"), "credential", map[string]any{"type": "workload_identity_federation", "config_file": "/etc/x"}, secret.ReasonAccessDenied},
	} {
		b := newBench(t, placement.Config{})
		doc := decoded(t, tt.sample)
		if _, err := b.Create(t.Context(), as(orgOwner), doc, tt.credentials, manage.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
		change(t, &doc, func(s map[string]any) { s[tt.setting] = tt.value })
		_, _, err := b.Update(t.Context(), as(owner), doc, []string{"settings"}, nil, manage.WriteOptions{ValidateOnly: true})
		if got := reasonOf(err); got != tt.want {
			t.Errorf("%s: %s = %v: %q, want %q: %v", doc.ID, tt.setting, tt.value, got, tt.want, err)
		}
	}
}

// TestFilesOfTheMachineAreImmutable: through the API, not even an owner of all integrations
// may use files that the broker's own configuration does not list.
func TestFilesOfTheMachineAreImmutable(t *testing.T) {
	b := newBench(t, placement.Config{})
	for _, settings := range []string{"{directories: [/etc]}", "{environment: [HOME]}"} {
		doc := decoded(t, "id: cspi-local\nkind: LOCAL_FILE\nlocal: "+settings+"\n")
		if _, err := b.Create(t.Context(), as(orgOwner), doc, nil, manage.WriteOptions{}); reasonOf(err) != secret.ReasonInvalidIntegration {
			t.Errorf("%s: %v", settings, err)
		}
	}
}

func TestFactsOfKinds(t *testing.T) {
	b := newBench(t, placement.Config{})
	for _, tt := range []struct {
		sample      string
		credentials map[string]secret.Value
		want        []string // "NAME: VALUE"
	}{
		{awsSample, awsKeys(), []string{"Cloud: aws", "Account: 123456789012", "Credential: static", "Role: arn:aws:iam::123456789012:role/reader", "Session: for 1h"}},
		{gcpSample, secrets("gcp.credential.key"), []string{
			"Cloud: gcp", "Credential: service_account_key", "Service account: reader@my-project.iam.gserviceaccount.com", "Project: projects/my-project",
		}},
		{vaultSample, secrets("vault.auth.secret_id"), []string{
			"Server: https://vault.example.org:8200", "Login: approle at auth/approle", "Role ID: r", "Mount: secret (kv2)", "Mount: legacy (kv1)",
			"Policy of the role, to narrow to what the grants give: path \"secret/data/*\" {\n  capabilities = [\"read\"]\n}\npath \"legacy/*\" {\n  capabilities = [\"read\"]\n}",
		}},
	} {
		in, err := b.Create(t.Context(), as(orgOwner), decoded(t, tt.sample), tt.credentials, manage.WriteOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range tt.want {
			name, value, _ := strings.Cut(want, ": ")
			if !slices.ContainsFunc(in.Facts, func(f manage.Fact) bool { return f.ID != "" && f.Name == name && f.Value == value }) {
				t.Errorf("%s: no %q in %q", in.Document.ID, want, in.Facts)
			}
		}
	}
}
