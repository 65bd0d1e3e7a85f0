package kinds

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/integration"
)

// TestStoredCredentials: for each credential that can be stored, there is a document
// that uses it without naming a file, and that is invalid without it.
func TestStoredCredentials(t *testing.T) {
	const (
		azure       = "id: x\nkind: AZURE_KEY_VAULT\nazure:\n  tenant_id: 11111111-1111-1111-1111-111111111111\n  client_id: 22222222-2222-2222-2222-222222222222\n  vaults: [https://vault-a.vault.azure.net]\n  credential: {type: "
		azureEvents = azure + "managed_identity}\n  events:\n    queue_url: https://myaccount.queue.core.windows.net/events\n    tenant_id: 11111111-1111-1111-1111-111111111111\n" +
			"    client_id: 22222222-2222-2222-2222-222222222222\n    credential: {type: "
		aws   = "id: x\nkind: AWS_SECRETS_MANAGER\naws:\n  account_id: '111122223333'\n  stores: [https://secretsmanager.eu-west-1.amazonaws.com]\n  credential: {type: "
		gcp   = "id: x\nkind: GCP_SECRET_MANAGER\ngcp:\n  projects: [projects/my-project]\n  credential: {type: "
		vault = vaultHead + vaultRest + "  auth: {type: "
	)
	for _, tt := range []struct {
		name, document string
		required       []string
		optional       string
		never          string // a credential that the document does not use
	}{
		{"azure secret", azure + "client_secret}\n", []string{"azure.credential.client_secret"}, "", "azure.credential.certificate"},
		{"azure certificate", azure + "client_certificate}\n", []string{"azure.credential.certificate"}, "", "azure.credential.client_secret"},
		{"events secret", azureEvents + "client_secret}\n", []string{"azure.events.credential.client_secret"}, "", "azure.credential.client_secret"},
		{"events certificate", azureEvents + "client_certificate}\n", []string{"azure.events.credential.certificate"}, "", "azure.credential.certificate"},
		{"azure token", azure + "workload_identity}\n", nil, "", "azure.credential.token"},
		{"aws keys", aws + "static}\n", []string{"aws.credential.access_key_id", "aws.credential.secret_access_key"}, "aws.credential.session_token", "aws.credential.profile"},
		{"aws keys for events", aws + "default}\n  events: {queue_url: 'https://sqs.eu-west-1.amazonaws.com/111122223333/q', credential: {type: static}}\n",
			[]string{"aws.events.credential.access_key_id", "aws.events.credential.secret_access_key"}, "aws.events.credential.session_token", "aws.credential.access_key_id"},
		{"aws profile", aws + "profile, profile: p}\n", nil, "", "aws.credential.credentials"},
		{"aws web identity", aws + "web_identity, role_arn: 'arn:aws:iam::111122223333:role/r'}\n", nil, "", "aws.credential.token"},
		{"gcp key", gcp + "service_account_key}\n", []string{"gcp.credential.key"}, "", "gcp.credential.config"},
		{"gcp key for events", gcp + "metadata_server}\n  events: {subscription: projects/my-project/subscriptions/s-1, credential: {type: service_account_key}}\n", []string{"gcp.events.credential.key"}, "", "gcp.credential.key"},
		{"gcp federation", gcp + "workload_identity_federation}\n", nil, "", "gcp.credential.config"},
		{"vault secret ID", vault + "approle, role_id: r}\n", []string{"vault.auth.secret_id"}, "", "vault.auth.token"},
		{"vault JWT", vault + "jwt, role: r}\n", []string{"vault.auth.token"}, "", "vault.auth.secret_id"},
		{"vault token", vault + "token}\n", []string{"vault.auth.token"}, "", "vault.auth.certificate"},
		{"vault certificate", vault + "cert}\n", []string{"vault.auth.certificate"}, "", "vault.auth.token"},
		{"vault kubernetes", vault + "kubernetes, role: r}\n", nil, "", "vault.auth.token"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			parse := func(names ...string) integration.Parsed {
				c := integration.DocumentConfig{Credentials: make(map[string]integration.Credential)}
				for _, name := range names {
					c.Credentials[name] = func(context.Context) ([]byte, error) { return []byte("s3cret " + name), nil }
				}
				return All().ParseDocument([]byte(tt.document), c)
			}
			if len(tt.required) == 0 { // only a file can hold the credential
				if p := parse(tt.never); p.Integration != nil || slices.Contains(p.Used, tt.never) || !strings.Contains(p.Faults.Error(), "missing") {
					t.Errorf("with %s: used %v, %v", tt.never, p.Used, p.Faults.Err())
				}
				return
			}
			p := parse(append(tt.required, tt.never)...)
			if p.Integration == nil || !slices.Equal(p.Used, tt.required) {
				t.Fatalf("used %v, %v", p.Used, p.Faults.Err())
			}
			if p.Integration.Stored(tt.never+"_file") != nil {
				t.Errorf("%s is with the integration", tt.never)
			}
			for _, name := range tt.required {
				open := p.Integration.Stored(name + "_file")
				if open == nil {
					t.Fatalf("%s is not with the integration", name)
				}
				if b, err := open(t.Context()); err != nil || string(b) != "s3cret "+name {
					t.Errorf("%s is another: %v", name, err)
				}
				without := slices.DeleteFunc(slices.Clone(tt.required), func(n string) bool { return n == name })
				if p := parse(without...); p.Integration != nil || !strings.Contains(p.Faults.Error(), name+"_file") {
					t.Errorf("without %s: %v", name, p.Faults.Err())
				}
			}
			if tt.optional != "" {
				if p := parse(append(tt.required, tt.optional)...); p.Integration == nil || !slices.Contains(p.Used, tt.optional) {
					t.Errorf("%s is not used", tt.optional)
				}
			}
		})
	}
}

// CredentialFiles returns only the files of credentials that can be stored with the
// document.
func TestDocumentCredentialFilesOfKinds(t *testing.T) {
	for document, want := range map[string][]string{
		"id: x\nkind: AWS_SECRETS_MANAGER\naws: {credential: {type: static, access_key_id_file: a, secret_access_key_file: b, session_token_file: c}}\n": {
			"aws.credential.access_key_id", "aws.credential.secret_access_key", "aws.credential.session_token",
		},
		"id: x\nkind: AWS_SECRETS_MANAGER\naws: {events: {credential: {type: static, access_key_id_file: a, secret_access_key_file: b}}}\n": {
			"aws.events.credential.access_key_id", "aws.events.credential.secret_access_key",
		},
		"id: x\nkind: AWS_SECRETS_MANAGER\naws: {credential: {type: profile, credentials_file: a}}\n":                nil,
		"id: x\nkind: GCP_SECRET_MANAGER\ngcp: {credential: {type: service_account_key, key_file: a}}\n":             {"gcp.credential.key"},
		"id: x\nkind: GCP_SECRET_MANAGER\ngcp: {credential: {type: workload_identity_federation, config_file: a}}\n": nil,
		"id: x\nkind: HASHICORP_VAULT\nvault: {auth: {type: approle, secret_id_file: a}, ca_file: b}\n":              {"vault.auth.secret_id"},
		"id: x\nkind: HASHICORP_VAULT\nvault: {auth: {type: kubernetes, token_file: a}}\n":                           nil,
		"id: x\nkind: HASHICORP_VAULT\nvault: {auth: {type: cert, certificate_file: a}}\n":                           {"vault.auth.certificate"},
	} {
		doc := All().DecodeDocument("f", []byte(document))
		if got := integration.ChoiceNames(doc.CredentialFiles("/d")); len(got) != len(want) || slices.ContainsFunc(want, func(n string) bool { return !slices.Contains(got, n) }) {
			t.Errorf("%s: %v", document, got)
		}
	}
}
