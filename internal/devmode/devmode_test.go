package devmode_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"go.yaml.in/yaml/v4"

	"github.com/secretbroker/secretbroker/examples"
	"github.com/secretbroker/secretbroker/internal/devmode"
	"github.com/secretbroker/secretbroker/internal/devmode/keyvault"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start starts an environment on a free port and closes it at the end of the test.
func start(t *testing.T, opts devmode.Options) *devmode.Environment {
	t.Helper()
	env, err := devmode.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Close(); err != nil {
			t.Error(err)
		}
	})
	return env
}

func freePort(dir string) devmode.Options {
	return devmode.Options{Dir: dir, VaultListen: "127.0.0.1:0"}
}

// integration is the layout of an integration's file, as documented.
type integration struct {
	ID          string
	DisplayName string `yaml:"display_name"`
	Kind        string
	Azure       struct {
		TenantID   string `yaml:"tenant_id"`
		ClientID   string `yaml:"client_id"`
		Credential struct {
			Type             string
			ClientSecretFile string `yaml:"client_secret_file"`
		}
		Events struct {
			QueueURL string `yaml:"queue_url"`
		}
		Vaults                   []string
		CAFile                   string `yaml:"ca_file"`
		AuthorityHost            string `yaml:"authority_host"`
		DisableInstanceDiscovery bool   `yaml:"disable_instance_discovery"`
		Dial                     map[string]string
	}
	Cache  struct{ TTL time.Duration }
	Grants []sampleGrant
}

type sampleGrant struct {
	ID                  string
	Principals, Secrets []string
}

func readYAML(t *testing.T, file string, into any) {
	t.Helper()
	dec := yaml.NewDecoder(bytes.NewReader(read(t, file)))
	dec.KnownFields(true)
	if err := dec.Decode(into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// vault returns a client that uses only the settings in the integration's file.
func vault(t *testing.T, env *devmode.Environment, url string) *azsecrets.Client {
	t.Helper()
	var in integration
	readYAML(t, env.IntegrationFile, &in)
	beside := func(path string) string { return filepath.Join(filepath.Dir(env.IntegrationFile), path) }
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(read(t, beside(in.Azure.CAFile))) {
		t.Fatal("no certificate in the CA file")
	}
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			host, _, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			if host == "another-key-vault.vault.azure.net" {
				address = env.VaultListen
			}
			if to, ok := in.Azure.Dial[host]; ok {
				address = to
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		},
		ForceAttemptHTTP2: true,
	}
	t.Cleanup(transport.CloseIdleConnections)
	options := policy.ClientOptions{
		Transport: &http.Client{Transport: transport},
		Cloud:     cloud.Configuration{ActiveDirectoryAuthorityHost: in.Azure.AuthorityHost},
		Retry:     policy.RetryOptions{MaxRetries: -1},
	}
	clientSecret := strings.TrimSpace(string(read(t, beside(in.Azure.Credential.ClientSecretFile))))
	cred, err := azidentity.NewClientSecretCredential(in.Azure.TenantID, in.Azure.ClientID, clientSecret, &azidentity.ClientSecretCredentialOptions{
		ClientOptions:            options,
		DisableInstanceDiscovery: in.Azure.DisableInstanceDiscovery,
	})
	if err != nil {
		t.Fatal(err)
	}
	client, err := azsecrets.NewClient(url, cred, &azsecrets.ClientOptions{ClientOptions: options})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func TestExampleConnectorResolves(t *testing.T) {
	env := start(t, freePort(filepath.Join(t.TempDir(), "dev")))
	data, err := examples.Files.ReadFile("sqlserver-cdc.json")
	if err != nil {
		t.Fatal(err)
	}
	var connector struct{ Config map[string]string }
	if err := json.Unmarshal(data, &connector); err != nil {
		t.Fatal(err)
	}
	if got := connector.Config["secret.manager.provider.integration.id"]; got != env.IntegrationID {
		t.Errorf("the example uses the integration %q, the integration is %q", got, env.IntegrationID)
	}
	for config, want := range map[string]string{"database.user": "dbadmin", "database.password": "$trongPassw0rdExamp1e"} {
		ref, err := secret.ParseRef(connector.Config[config])
		if err != nil {
			t.Fatal(err)
		}
		resp, err := vault(t, env, ref.Store).GetSecret(t.Context(), ref.Name, ref.Version, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := secret.New("", time.Time{}, time.Time{}, []byte(*resp.Value)).Select(ref.Key)
		if err != nil {
			t.Fatal(err)
		}
		if got.Reveal() != want {
			t.Errorf("%s is %q, want %q", config, got.Reveal(), want)
		}
	}
	if got := env.KeyVault.Reads(); got != 2 {
		t.Errorf("%d reads, want 2", got)
	}
}

func TestSamples(t *testing.T) {
	env := start(t, freePort(filepath.Join(t.TempDir(), "dev")))
	now := time.Now()
	tests := []struct {
		vault, name, value string
		status             int
		expired, notYet    bool
	}{
		{vault: devmode.VaultURL, name: "postgres-password", value: "correct-horse-battery-staple"},
		{vault: devmode.VaultURL, name: "postgres-tls", value: `{"ssl.key.password":"keyPassw0rdExamp1e","ssl":{"key":{"password":"not this one"}}}`},
		{vault: devmode.VaultURL, name: "sqlserver-keystore-base64", value: "/u3+7QAAAAIAAAAA5UO5ZCmT2U3gGDqJGFd76BpI5Ec="},
		{vault: devmode.VaultURL, name: "sqlserver-tls", value: `{"keystore":"/u3+7QAAAAIAAAAA5UO5ZCmT2U3gGDqJGFd76BpI5Ec=","keystore.password":"keystorePassw0rdExamp1e"}`},
		{vault: devmode.VaultURL, name: "sqlserver-password-base64", value: "YmFzZTY0UGFzc3cwcmRFeGFtcDFl"},
		{vault: devmode.VaultURL, name: "sqlserver-until-2099", value: "untilPassw0rdExamp1e"},
		{vault: devmode.VaultURL, name: "sqlserver-empty", value: ""},
		{vault: devmode.VaultURL, name: "sqlserver-disabled", status: 403},
		{vault: devmode.VaultURL, name: "sqlserver-expired", value: "expiredPassw0rdExamp1e", expired: true},
		{vault: devmode.VaultURL, name: "sqlserver-not-yet-valid", value: "futurePassw0rdExamp1e", notYet: true},
		{vault: devmode.VaultURL, name: "sqlserver-deleted", status: 404},
		{vault: devmode.VaultURL, name: "oracle-password", value: "oraclePassw0rdExamp1e"},
		{vault: "https://no-role-key-vault.vault.azure.net", name: "sqlserver-db-secret", status: 403},
		{vault: "https://another-key-vault.vault.azure.net", name: "sqlserver-db-secret", value: `{"user":"elsewhere","password":"otherPassw0rdExamp1e"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp, err := vault(t, env, tt.vault).GetSecret(t.Context(), tt.name, "", nil)
			if tt.status != 0 {
				if re, ok := errors.AsType[*azcore.ResponseError](err); !ok || re.StatusCode != tt.status {
					t.Errorf("error is %v, want status %d", err, tt.status)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if *resp.Value != tt.value {
				t.Errorf("value = %q, want %q", *resp.Value, tt.value)
			}
			expires, notBefore := resp.Attributes.Expires, resp.Attributes.NotBefore
			if got := expires != nil && expires.Before(now); got != tt.expired {
				t.Errorf("expires = %v", expires)
			}
			if got := notBefore != nil && notBefore.After(now); got != tt.notYet {
				t.Errorf("not before = %v", notBefore)
			}
		})
	}
}

func TestSettings(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dev")
	env := start(t, devmode.Options{Dir: dir, Listen: "[::1]:9443", VaultListen: "127.0.0.1:0"})

	type m = map[string]any
	var got m
	readYAML(t, env.ConfigFile, &got)
	want := m{
		"listen":       "[::1]:9443",
		"admin_listen": devmode.DefaultAdminListen,
		"tls":          m{"cert_file": "server.pem", "key_file": "server-key.pem", "client_ca_file": "ca.pem"},
		"registry":     map[string]any{"directory": map[string]any{"path": "integrations/"}},
		"cache":        m{"ttl": "5m", "max_bytes": "64MiB"},
		"audit":        m{"file": "audit.jsonl"},
		"roles":        m{"resource_owner": []any{"spiffe://example.org/admin/owner"}, "auditor": []any{"spiffe://example.org/ops/*"}},
		"watch":        m{"version_key_file": "version.key", "splay": "0s"},
		"limits":       m{"max_calls_per_second_per_principal": 1000000},
		"shutdown":     m{"drain_delay": "0s"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("secretbroker.yaml (-want +got):\n%s", diff)
	}

	var gotIn, wantIn integration
	readYAML(t, env.IntegrationFile, &gotIn)
	wantIn.ID, wantIn.DisplayName, wantIn.Kind = "cspi-sqlserver", "SQL Server CDC", "AZURE_KEY_VAULT"
	wantIn.Azure.TenantID, wantIn.Azure.ClientID = gotIn.Azure.TenantID, gotIn.Azure.ClientID
	wantIn.Azure.Credential.Type, wantIn.Azure.Credential.ClientSecretFile = "client_secret", "../client-secret.txt"
	wantIn.Azure.Vaults = []string{devmode.VaultURL, "https://no-role-key-vault.vault.azure.net"}
	wantIn.Azure.CAFile = "../keyvault-ca.pem"
	wantIn.Azure.AuthorityHost = "https://" + env.VaultListen
	wantIn.Azure.DisableInstanceDiscovery = true
	wantIn.Azure.Dial = map[string]string{
		"your-key-vault-name.vault.azure.net": env.VaultListen,
		"no-role-key-vault.vault.azure.net":   env.VaultListen,
		keyvault.QueueHost:                    env.VaultListen,
	}
	wantIn.Azure.Events.QueueURL = "https://" + keyvault.QueueHost + "/" + keyvault.QueueName
	wantIn.Cache.TTL = 5 * time.Minute
	wantIn.Grants = []sampleGrant{{"connect-workers", []string{"spiffe://example.org/connect/*"}, []string{"sqlserver-*", "postgres-*"}}}
	if diff := cmp.Diff(wantIn, gotIn); diff != "" {
		t.Errorf("integration (-want +got):\n%s", diff)
	}
}

func TestFilesAreTheOwnersAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "dev")
	start(t, freePort(dir))
	var files []string
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		want := os.FileMode(0o600)
		if info.IsDir() {
			want = 0o700
		} else {
			files = append(files, strings.TrimPrefix(path, dir+"/"))
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has the rights %v, want %v", path, info.Mode().Perm(), want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"auditor-key.pem", "auditor.pem", "ca.pem", "client-secret.txt",
		"integrations/cspi-sqlserver.yaml", "keyvault-ca.pem", "other-worker-key.pem", "other-worker.pem",
		"owner-key.pem", "owner.pem",
		"secretbroker.yaml", "secrets.yaml", "server-key.pem", "server.pem", "version.key", "worker-key.pem", "worker.pem",
	}
	if diff := cmp.Diff(want, files); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestSecondStartKeepsEdits(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dev")
	first := start(t, freePort(dir))
	credential, ca := read(t, first.ClientSecretFile), read(t, first.CAFile)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	edit := func(file, old, new string) string {
		t.Helper()
		text := strings.Replace(string(read(t, file)), old, new, 1)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return text
	}
	secrets := edit(first.SecretsFile, "correct-horse-battery-staple", "edited")
	in := edit(first.IntegrationFile, "SQL Server CDC", "edited")
	edit(first.ConfigFile, "listen:", "nonsense:")

	second := start(t, devmode.Options{Dir: dir})
	if second.VaultListen != first.VaultListen {
		t.Errorf("listens on %s, but the integration dials %s", second.VaultListen, first.VaultListen)
	}
	if got := string(read(t, second.SecretsFile)); got != secrets {
		t.Error("the edited secrets were overwritten")
	}
	if got := string(read(t, second.IntegrationFile)); got != in {
		t.Error("the edited integration was overwritten")
	}
	if bytes.Contains(read(t, second.ConfigFile), []byte("nonsense")) {
		t.Error("secretbroker.yaml was not rewritten")
	}
	if bytes.Equal(read(t, second.ClientSecretFile), credential) || bytes.Equal(read(t, second.CAFile), ca) {
		t.Error("the client secret or the CA was not replaced")
	}
	resp, err := vault(t, second, devmode.VaultURL).GetSecret(t.Context(), "postgres-password", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if *resp.Value != "edited" {
		t.Errorf("value = %q, want the edited one", *resp.Value)
	}
}
