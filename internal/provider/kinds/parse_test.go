package kinds

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/azurekv"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
)

// sound is a check that reports no fault.
func sound(integration.NamedFile) string { return "" }

func ref(t *testing.T, s string) secret.Ref {
	t.Helper()
	r, err := secret.ParseRef(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestParseFull(t *testing.T) {
	data, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	got := All().ParseFile("/etc/integrations/full.yaml", data, sound)
	if err := got.Faults.Err(); err != nil {
		t.Fatal(err)
	}
	want := &integration.Integration{
		ID:          "cspi-sqlserver",
		DisplayName: "SQL Server CDC",
		Kind:        secret.KindAzureKeyVault,
		CacheTTL:    90 * time.Second,
		Reads:       integration.Reads{MaxConcurrent: 16, PerSecond: 100, Timeout: 2500 * time.Millisecond},
		Placement:   integration.Placement{Cloud: "azure", Region: "westeurope"},

		Settings: &azurekv.Settings{
			TenantID:                 "11111111-2222-3333-4444-555555555555",
			ClientID:                 "66666666-7777-8888-9999-AAAAAAAAAAAA",
			Credential:               azurekv.Credential{Type: azurekv.ClientSecret, ClientSecretFile: "/etc/integrations/credentials/client-secret"},
			Vaults:                   []string{"https://your-key-vault-name.vault.azure.net", "https://second-vault.vault.azure.net"},
			Events:                   fullEvents,
			CAFile:                   "/etc/integrations/ca.pem",
			AuthorityHost:            "https://login.example.org:8443/",
			DisableInstanceDiscovery: true,
			Dial: map[string]string{
				"your-key-vault-name.vault.azure.net": "127.0.0.1:8444",
				"login.example.org":                   "[::1]:8445",
			},
			PrivateEndpoint: true,
		},
	}
	if diff := cmp.Diff(want, got.Integration, cmpopts.IgnoreFields(integration.Integration{}, "Policy", "Roles")); diff != "" {
		t.Error(diff)
	}
	if r := got.Integration.Roles; !r.Has(authz.ResourceOwner, "spiffe://example.org/teams/cdc") || !r.Has(authz.Assigner, "spiffe://example.org/ops/a") || r.Has(authz.Auditor, "spiffe://example.org/ops/a") {
		t.Errorf("roles: %+v", r)
	}
	refs := []integration.NamedFile{
		{Path: "/etc/integrations/credentials/client-secret", Use: integration.UseCredential},
		{Path: "/etc/integrations/credentials/events.pem", Use: integration.UseCredential},
		{Path: "/etc/integrations/ca.pem", Use: integration.UseCA},
	}
	if diff := cmp.Diff(refs, got.Files, cmp.AllowUnexported(integration.NamedFile{})); diff != "" {
		t.Error(diff)
	}

	decisions := []struct {
		who  authz.Principal
		ref  string
		want authz.Decision
	}{
		{"spiffe://example.org/connect/1", "https://second-vault.vault.azure.net::sqlserver-a::password", authz.Decision{Effect: authz.Allowed, Grant: 0}},
		{"spiffe://example.org/connect/1", "https://second-vault.vault.azure.net::sqlserver-a", authz.Decision{}},
		{"spiffe://example.org/connect/1", "https://your-key-vault-name.vault.azure.net::sqlserver-a::password", authz.Decision{}},
		{"dns:worker-1.example.org", "https://your-key-vault-name.vault.azure.net::x", authz.Decision{Effect: authz.Allowed, Grant: 1}},
		{"dns:worker-1.example.org", "https://other.vault.azure.net::x", authz.Decision{Effect: authz.StoreNotAllowed, Grant: 1}},
		{"dns:worker-2.example.org", "https://second-vault.vault.azure.net::sqlserver-a::password", authz.Decision{}},
	}
	for _, d := range decisions {
		if got := got.Integration.Policy.Decide(d.who, ref(t, d.ref)); got != d.want {
			t.Errorf("Decide(%s, %s) = %+v, want %+v", d.who, d.ref, got, d.want)
		}
	}
}

func TestParseCredentials(t *testing.T) {
	tests := []struct {
		credential string
		ids        bool
		want       azurekv.Credential
	}{
		{"{type: client_secret, client_secret_file: /c}", true, azurekv.Credential{Type: azurekv.ClientSecret, ClientSecretFile: "/c"}},
		{"{type: client_certificate, certificate_file: c, send_certificate_chain: true}", true, azurekv.Credential{Type: azurekv.ClientCertificate, CertificateFile: "/d/c", SendCertificateChain: true}},
		{"{type: client_certificate, certificate_file: c}", true, azurekv.Credential{Type: azurekv.ClientCertificate, CertificateFile: "/d/c"}},
		{"{type: workload_identity, token_file: ../c}", true, azurekv.Credential{Type: azurekv.WorkloadIdentity, TokenFile: "/c"}},
		{"{type: managed_identity}", false, azurekv.Credential{Type: azurekv.ManagedIdentity}},
		{"{type: default}", false, azurekv.Credential{Type: azurekv.DefaultCredential}},
	}
	for _, tt := range tests {
		data := "id: x\nkind: AZURE_KEY_VAULT\nazure:\n  credential: " + tt.credential + "\n  vaults: [https://abc.vault.azure.cn]\n"
		if tt.ids {
			data += "  tenant_id: example.onmicrosoft.com\n  client_id: " + clientID + "\n"
		}
		got := All().ParseFile("/d/x.yaml", []byte(data), sound)
		if err := got.Faults.Err(); err != nil {
			t.Errorf("%s: %v", tt.credential, err)
			continue
		}
		if diff := cmp.Diff(tt.want, got.Integration.Settings.(*azurekv.Settings).Credential); diff != "" {
			t.Errorf("%s: %s", tt.credential, diff)
		}
		if got.Integration.CacheTTL != 0 || got.Integration.Settings.(*azurekv.Settings).AuthorityHost != "https://login.chinacloudapi.cn/" {
			t.Errorf("%s: defaults: %+v %+v", tt.credential, got.Integration, got.Integration.Settings.(*azurekv.Settings))
		}
		if d := got.Integration.Policy.Decide("spiffe://example.org/a", ref(t, "https://abc.vault.azure.cn::x")); !got.Ungranted || d.Effect != authz.Denied {
			t.Errorf("%s: without grants: %+v", tt.credential, d)
		}
	}
}

// head is the beginning of a file, lines 1 to 3; credential is line 4, vaults 5.
const (
	head       = "id: x\nkind: AZURE_KEY_VAULT\nazure:\n"
	credential = "  credential: {type: managed_identity}\n"
	vaults     = "  vaults: [https://abc.vault.azure.net]\n"
	full       = head + credential + vaults
	secretType = head + "  credential: {type: client_secret, client_secret_file: f}\n" + vaults + "  tenant_id: a.example\n  client_id: " + clientID + "\n"
)

func TestParseGrantIDs(t *testing.T) {
	const derived = "e027803dc7a1be65d26d86ab006e6a3c"
	got := All().ParseFile("/d/f", []byte(full+`grants:
  - {principals: [dns:a.example.org], secrets: [db-*]}
  - {principals: [dns:a.example.org], secrets: [db-*], id: team-a}
  - {principals: [dns:b.example.org], id: `+strings.Repeat("a", 64)+"}\n"), sound)
	if err := got.Faults.Err(); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, g := range got.Integration.Policy.Grants() {
		ids = append(ids, g.ID)
	}
	if diff := cmp.Diff([]string{derived, "team-a", strings.Repeat("a", 64)}, ids); diff != "" {
		t.Error(diff)
	}
	stated := full + "grants:\n  - {principals: [dns:a.example.org], secrets: [db-*], id: " + derived + "}\n"
	if got := All().ParseFile("/d/f", []byte(stated), sound); got.Faults.Err() != nil {
		t.Errorf("the derived id, stated: %v", got.Faults)
	}
}

// parseFault is a faulty file and its faults.
type parseFault struct{ name, data, want string }

func parseFaults() []parseFault {
	const (
		badTenant    = "azure.tenant_id: expected a tenant's UUID or one of its domain names"
		badAuthority = "azure.authority_host: expected https://HOST/ with nothing after it, such as https://login.microsoftonline.com/"
		badDial      = "azure.dial[abc.vault.azure.net]: expected the address to connect to, host:port, such as 127.0.0.1:8444"
		kinds        = "AZURE_KEY_VAULT, AWS_SECRETS_MANAGER, GCP_SECRET_MANAGER, HASHICORP_VAULT or LOCAL_FILE"
		types        = "client_certificate, client_secret, default, managed_identity or workload_identity"
		badID        = "expected 1 to 64 lower-case letters, digits, dots, underscores and hyphens, with a letter or digit at both ends"
		noVault      = "azure.vaults: at least one vault is required, such as https://NAME.vault.azure.net"
	)
	return []parseFault{
		{"empty", "", "1: the file is empty"},
		{"not YAML", "id: [\n", "2: not YAML, here or soon after: did not find expected node content"},
		{"unknown", full + "grant: []\n", `6: unknown setting "grant"; did you mean "grants"?`},
		{"other version", "api_version: secretbroker/v2\n" + full, "1: api_version: expected secretbroker/v1, the only version that this release knows; a document of another version needs the release that has it"},
		{"former name", full + "limits: {max_concurrent_reads: 1}\n", `6: unknown setting "limits"; it is now reads, with max_concurrent, per_second and timeout`},
		{"unknown in azure", full + "  tenant: x\n", `6: azure: unknown setting "tenant"; did you mean "tenant_id"?`},
		{"secret in the file", head + "  credential: {type: managed_identity, client_secret: hunter2}\n" + vaults,
			`4: azure.credential: unknown setting "client_secret"; did you mean "client_secret_file"?`},
		{"duplicate", full + "id: y\n", `6: "id" is set twice, first on line 1`},

		{"no id", strings.TrimPrefix(full, "id: x\n"), "1: id: missing; it is required: the name that connectors' configurations use"},
		{"bad id", strings.Replace(full, "x", "a/b", 1), "1: id: expected " + integration.IDRule},
		{"long id", strings.Replace(full, "x", strings.Repeat("x", 65), 1), "1: id: expected " + integration.IDRule},
		{"display name", full + `display_name: "a\nb"` + "\n", "6: display_name: expected one line of at most 256 bytes"},
		{"no kind", strings.Replace(full, "kind: AZURE_KEY_VAULT\n", "", 1), "1: kind: missing; it is required: " + kinds},
		{"other kind", strings.Replace(full, "AZURE_KEY_VAULT", "azure_key_vault", 1), "2: kind: expected " + kinds},
		{"no azure", "id: x\nkind: AZURE_KEY_VAULT\n", "1: azure: missing; the kind AZURE_KEY_VAULT requires it"},
		{"azure empty", "id: x\nkind: AZURE_KEY_VAULT\nazure:\n", "3: azure.credential.type: missing; it is required: " + types + "\n3: " + noVault},

		{"no tenant and client", head + "  credential:\n    type: workload_identity\n    token_file: f\n" + vaults,
			"3: azure.tenant_id: missing; the credential type workload_identity requires it\n3: azure.client_id: missing; the credential type workload_identity requires it"},
		{"tenant with slash", full + "  tenant_id: example.org/x\n", "6: " + badTenant},
		{"tenant of one word", full + "  tenant_id: common\n", "6: " + badTenant},
		{"client", full + "  client_id: me\n", "6: azure.client_id: expected an application's client ID, which is a UUID"},
		{"no credential", head + vaults, "3: azure.credential.type: missing; it is required: " + types},
		{"other credential", strings.Replace(full, "managed_identity", "password", 1), "4: azure.credential.type: expected " + types},
		{"no file", strings.Replace(secretType, ", client_secret_file: f", "", 1), "4: azure.credential.client_secret_file: missing; the credential type client_secret requires it"},
		{"file of another type", strings.Replace(secretType, "client_secret_file: f", "client_secret_file: f, token_file: t", 1),
			"4: azure.credential.token_file: does not belong to the credential type client_secret; remove it or change the type"},
		{"file of another type, none wanted", strings.Replace(full, "managed_identity", "default, certificate_file: c", 1),
			"4: azure.credential.certificate_file: does not belong to the credential type default; remove it or change the type"},

		{"no vaults", head + credential, "3: " + noVault},
		{"vaults empty", head + credential + "  vaults: []\n", "5: " + noVault},
		{"bad vaults", head + credential + "  vaults:\n    - https://a-good-one.vault.azure.net\n    - http://abc.vault.azure.net\n    - https://abc.example.org\n",
			"7: azure.vaults[1]: not a vault: the store is an http:// URL; only https:// is supported; expected https://NAME.vault.azure.net\n" +
				"8: azure.vaults[2]: not a vault: the host is not a vault of a known cloud (NAME.vault.azure.net, NAME.vault.azure.cn, NAME.vault.usgovcloudapi.net); expected https://NAME.vault.azure.net"},
		{"same vault", head + credential + "  vaults:\n    - https://abc.vault.azure.net\n    - https://ABC.vault.azure.net:443/\n", "7: azure.vaults[1]: the same store as azure.vaults[0]"},
		{"two clouds", head + credential + "  vaults:\n    - https://abc.vault.azure.net\n    - https://abc.vault.azure.cn\n",
			"7: azure.vaults[1]: a vault of AzureChina, but those before it are of AzurePublic; make an integration for each cloud"},

		{"authority http", full + "  authority_host: http://login.example.org\n", "6: " + badAuthority},
		{"authority with path", full + "  authority_host: https://login.example.org/tenant\n", "6: " + badAuthority},
		{"authority with user", full + "  authority_host: https://a:hunter2@login.example.org\n", "6: " + badAuthority},
		{"authority with query", full + "  authority_host: https://login.example.org/?\n", "6: " + badAuthority},
		{"authority without host", full + "  authority_host: https://\n", "6: " + badAuthority},
		{"authority with bad port", full + "  authority_host: https://login.example.org:0\n", "6: " + badAuthority},
		{"authority with half a port", full + "  authority_host: 'https://login.example.org:'\n", "6: " + badAuthority},
		{"dial to elsewhere", full + "  dial:\n    abc.vault.azure.net: 127.0.0.1:1\n    login.microsoftonline.com: 127.0.0.1:2\n    example.org: 127.0.0.1:3\n",
			"9: azure.dial[example.org]: not the host of a listed vault, of the queue or of the authority; nothing else is contacted"},
		{"dial twice", full + "  dial:\n    abc.vault.azure.net: 127.0.0.1:1\n    ABC.vault.azure.net: 127.0.0.1:1\n", "7: azure.dial[abc.vault.azure.net]: the same host is listed twice"},
		{"dial without port", full + "  dial:\n    abc.vault.azure.net: 127.0.0.1\n", "7: " + badDial},
		{"dial without host", full + "  dial:\n    abc.vault.azure.net: :8444\n", "7: " + badDial},
		{"dial to port 0", full + "  dial:\n    abc.vault.azure.net: 127.0.0.1:0\n", "7: " + badDial},
		{"discovery", full + "  disable_instance_discovery: 1\n", "6: azure.disable_instance_discovery: expected true or false, without quotes"},

		{"ttl too short", full + "cache:\n  ttl: 999ms\n", "7: cache.ttl: expected 1s to 24h"},
		{"ttl zero", full + "cache:\n  ttl: 0s\n", "7: cache.ttl: expected 1s to 24h"},
		{"ttl too long", full + "cache:\n  ttl: 25h\n", "7: cache.ttl: expected 1s to 24h"},
		{"ttl without unit", full + "cache:\n  ttl: 5\n", `7: cache.ttl: expected a duration with its unit, such as "30s", "5m" or "90d"`},

		{"private endpoint", full + "  private_endpoint: maybe\n", "6: azure.private_endpoint: expected true or false, without quotes"},
		{"reads too low", full + "reads: {max_concurrent: 0, per_second: -1, timeout: 999ms}\n",
			"6: reads.max_concurrent: expected 1 to 1024\n" +
				"6: reads.per_second: expected 1 to 100000, or 0 for no limit\n" +
				"6: reads.timeout: expected 1s to 10s"},
		{"reads too high", full + "reads: {max_concurrent: 1025, per_second: 100001, timeout: 11s}\n",
			"6: reads.max_concurrent: expected 1 to 1024\n" +
				"6: reads.per_second: expected 1 to 100000, or 0 for no limit\n" +
				"6: reads.timeout: expected 1s to 10s"},

		{"grant without principals", full + "grants:\n  - secrets: [a]\n", "7: grants[0].principals: a grant needs at least one principal"},
		{"grant to an open trust domain", full + "grants:\n  - principals:\n      - dns:a.example.org\n      - spiffe://example*\n", "9: grants[0].principals[1]: a pattern must name the complete trust domain"},
		{"grant of another vault", full + "grants:\n  - principals: [dns:a.example.org]\n    stores:\n      - https://xyz.vault.azure.net\n",
			"9: grants[0].stores[0]: not a store of the integration; add it to the integration first"},
		{"grant of bad names", full + "grants:\n  - principals: [dns:a.example.org]\n    secrets: [a]\n  - principals: [dns:b.example.org]\n    secrets:\n      - a\n      - b_c\n      - '*x'\n",
			"12: grants[1].secrets[1]: expected a secret's name, or a prefix followed by one \"*\"\n13: grants[1].secrets[2]: expected a secret's name, or a prefix followed by one \"*\""},
		{"grant with empty secrets", full + "grants:\n  - principals: [dns:a.example.org]\n    secrets: []\n", "8: grants[0].secrets: the list is empty; leave it out to allow every secret"},
		// The entries may have been commented out by mistake. That must not grant
		// everything.
		{"grant with no secrets", full + "grants:\n  - principals: [dns:a.example.org]\n    secrets:\n    keys:\n      # - a\n",
			"8: grants[0].secrets: the list is empty; leave it out to allow every secret\n9: grants[0].keys: the list is empty; leave it out to allow every key and the whole secret"},
		{"grant twice", full + "grants:\n  - principals: [dns:a, dns:b]\n  - principals: [dns:c]\n  - principals: [dns:b, dns:a]\n",
			"9: grants[2]: the same as grants[0]; remove one of them"},
		{"grant id twice", full + "grants:\n  - {id: x, principals: [dns:a]}\n  - {principals: [dns:b], id: x}\n", "8: grants[1].id: grants[0] has this id, too; the ids of an integration's grants must differ"},
		{"grant ids", full + "grants:\n  - {principals: [dns:a], id: -a}\n  - {principals: [dns:b], id: A}\n  - {principals: [dns:c], id: a.}\n  - {principals: [dns:d], id: " + strings.Repeat("a", 65) + "}\n",
			"7: grants[0].id: " + badID + "\n8: grants[1].id: " + badID + "\n9: grants[2].id: " + badID + "\n10: grants[3].id: " + badID},
		{"grant with the derived id of another", full + "grants:\n  - {principals: [dns:a.example.org], secrets: [db], id: e027803dc7a1be65d26d86ab006e6a3c}\n",
			"7: grants[0].id: 32 hexadecimal digits are the id of a grant without a name, and these belong to other lists; remove the id, or choose a name"},
		{"grants is a section", full + "grants: {principals: [a]}\n", "6: grants: expected a list, found a section"},
		{"grant is text", full + "grants:\n  - dns:a.example.org\n", "7: grants[0]: expected a section of settings (name: value), found a single value"},

		{"all at once", "id: a b\nkind: AZURE_KEY_VAULT\nazure:\n  tenant_id: x\n  credential: {type: client_secret, token_file: f}\n  vaults: [x]\ncache: {ttl: 1}\ngrants:\n  - principals: [x]\nmore: 1\n",
			"1: id: expected " + integration.IDRule + "\n" +
				"3: azure.client_id: missing; the credential type client_secret requires it\n" +
				"4: " + badTenant + "\n" +
				"5: azure.credential.client_secret_file: missing; the credential type client_secret requires it\n" +
				"5: azure.credential.token_file: does not belong to the credential type client_secret; remove it or change the type\n" +
				"6: azure.vaults[0]: not a vault: the store does not begin with https://; expected https://NAME.vault.azure.net\n" +
				`7: cache.ttl: expected a duration with its unit, such as "30s", "5m" or "90d"` + "\n" +
				`9: grants[0].principals[0]: expected a SPIFFE ID ("spiffe://...") or "dns:HOST"` + "\n" +
				`10: unknown setting "more"; known here: api_version, id, display_name, kind, azure, aws, gcp, vault, local, cache, reads, placement, grants, roles`},
	}
}

func TestParseFaults(t *testing.T) {
	for _, tt := range parseFaults() {
		t.Run(tt.name, func(t *testing.T) {
			got := All().ParseFile("/d/f", []byte(tt.data), sound)
			want := "/d/f:" + strings.ReplaceAll(tt.want, "\n", "\n/d/f:")
			if diff := cmp.Diff(want, got.Faults.Error()); diff != "" {
				t.Error(diff)
			}
			if got.Integration != nil {
				t.Errorf("accepted: %+v", got.Integration)
			}
			if strings.Contains(got.Faults.Error(), "hunter2") {
				t.Error("a fault quotes a value")
			}
		})
	}
}

func TestReferenceFaults(t *testing.T) {
	dir := t.TempDir()
	ca := string(trusttest.NewCA(t, "own").PEM())
	for name, content := range map[string]string{
		"secret": "hunter2", "blank": " \n", "large": strings.Repeat("x", 1<<20+1), "largest": strings.Repeat("x", 1<<20),
		"ca": "# our own\n" + ca + ca, "cut": ca + ca[:len(ca)/2], "none": "hunter2",
		"key": ca + "-----BEGIN PRIVATE KEY-----\naGk=\n-----END PRIVATE KEY-----\n", "damaged": "-----BEGIN CERTIFICATE-----\naGk=\n-----END CERTIFICATE-----\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const missing = "there is no such file; a relative path is resolved against the directory of the integration's file"
	tests := []struct {
		ref  integration.NamedFile
		want string
	}{
		{integration.NamedFile{Path: "secret", Use: integration.UseCredential}, ""},
		{integration.NamedFile{Path: "largest", Use: integration.UseCredential}, ""},
		{integration.NamedFile{Path: "large", Use: integration.UseCredential}, "the file is larger than 1 MiB"},
		{integration.NamedFile{Path: "blank", Use: integration.UseCredential}, "the file is empty"},
		{integration.NamedFile{Path: "absent", Use: integration.UseCredential}, missing},
		{integration.NamedFile{Path: ".", Use: integration.UseCredential}, "not a regular file"},
		{integration.NamedFile{Path: "secret/x", Use: integration.UseCredential}, "the file cannot be read: not a directory"},
		{integration.NamedFile{Path: "ca", Use: integration.UseCA}, ""},
		{integration.NamedFile{Path: "absent", Use: integration.UseCA}, missing},
		{integration.NamedFile{Path: "blank", Use: integration.UseCA}, "the file is empty"},
		{integration.NamedFile{Path: "none", Use: integration.UseCA}, "the CA file is not valid: it contains no PEM certificate"},
		{integration.NamedFile{Path: "cut", Use: integration.UseCA}, "the CA file is not valid: it contains a truncated or damaged certificate"},
		{integration.NamedFile{Path: "damaged", Use: integration.UseCA}, "the CA file is not valid: its certificate 1 cannot be parsed"},
		{integration.NamedFile{Path: "key", Use: integration.UseCA}, "the CA file is not valid: it must contain only PEM certificates"},
	}
	look := integration.NewLook()
	for _, tt := range tests {
		tt.ref.Path = filepath.Join(dir, tt.ref.Path)
		if got := look.Read(tt.ref).Fault; got != tt.want {
			t.Errorf("%s: got %q, want %q", filepath.Base(tt.ref.Path), got, tt.want)
		}
	}
	if got := look.Read(integration.NamedFile{Path: filepath.Join(dir, "secret"), Use: integration.UseCredential}).Sum; got != sha256.Sum256([]byte("hunter2")) {
		t.Error("the hash is not of the content")
	}

	// For a file, the fault contains the line of the setting and not the path,
	// because the path may be the credential itself.
	data := strings.Replace(secretType, "client_secret_file: f", "client_secret_file: hunter2", 1) + "  ca_file: none\n"
	got := All().ParseFile(filepath.Join(dir, "f"), []byte(data), func(r integration.NamedFile) string { return look.Read(r).Fault })
	want := filepath.Join(dir, "f") + ":4: azure.credential.client_secret_file: " + missing + "\n" +
		filepath.Join(dir, "f") + ":8: azure.ca_file: the CA file is not valid: it contains no PEM certificate"
	if diff := cmp.Diff(want, got.Faults.Error()); diff != "" {
		t.Error(diff)
	}
}

func FuzzParseIntegration(f *testing.F) {
	data, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(full))
	f.Add([]byte(vaultFull))
	f.Add([]byte(localFull))
	f.Add([]byte(fullAWS))
	f.Add([]byte(soundAWS))
	f.Add([]byte(secretType + "grants:\n  - principals: [dns:*.example.org, spiffe://example.org/**]\n    keys: [a]\n"))
	stranger := authz.Principal("spiffe://stranger.invalid/nobody")
	f.Fuzz(func(t *testing.T, data []byte) {
		got := All().ParseFile("/d/f.yaml", data, sound)
		if (got.Integration == nil) == (len(got.Faults) == 0) {
			t.Fatalf("neither accepted nor at fault, or both: %+v", got)
		}
		if got.Integration == nil || strings.Contains(string(data), "stranger") {
			return
		}
		if !integration.ValidID(got.Integration.ID) || got.DeclaredID != got.Integration.ID || len(stores(got.Integration)) == 0 {
			t.Errorf("accepted: %+v", got.Integration)
		}
		if a, ok := got.Integration.Settings.(*azurekv.Settings); ok && !strings.HasPrefix(a.AuthorityHost, "https://") {
			t.Errorf("accepted: %+v", a)
		}
		for _, store := range stores(got.Integration) {
			if canonical, err := got.Integration.Kind.ParseStore(store); err != nil || canonical != store {
				t.Fatalf("the store %q is not canonical: %v", store, err)
			}
			r := secret.Ref{Kind: got.Integration.Kind, Store: store, Name: "name"}
			for _, who := range []authz.Principal{stranger, ""} {
				if d := got.Integration.Policy.Decide(who, r); d.Effect != authz.Denied {
					t.Errorf("Decide(%q, %v) = %+v", who, r, d)
				}
			}
		}
	})
}

// stores returns the stores of an integration of any kind.
func stores(in *integration.Integration) []string { return in.Settings.StoreNames() }
