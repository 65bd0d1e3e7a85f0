package kinds

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/netfault"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// behindProxy has an integration of each kind over HTTP, with a reference.
var behindProxy = []struct{ name, document, ref string }{
	{"Azure", `{id: x, kind: AZURE_KEY_VAULT, azure: {tenant_id: 72f988bf-86f1-41af-91ab-2d7cd011db47, client_id: 72f988bf-86f1-41af-91ab-2d7cd011db48,
		disable_instance_discovery: true, vaults: ["https://abc.vault.azure.net"], credential: {type: client_secret, client_secret_file: DIR/text}}}`, "https://abc.vault.azure.net::db"},
	{"AWS", `{id: x, kind: AWS_SECRETS_MANAGER, aws: {account_id: "123456789012", stores: ["https://secretsmanager.eu-west-1.amazonaws.com"],
		credential: {type: static, access_key_id_file: DIR/text, secret_access_key_file: DIR/text}}}`, "https://secretsmanager.eu-west-1.amazonaws.com::db"},
	{"AWS with a role", `{id: x, kind: AWS_SECRETS_MANAGER, aws: {role: {arn: "arn:aws:iam::123456789012:role/r", external_id: abcdef}, stores: ["https://secretsmanager.eu-west-1.amazonaws.com"],
		credential: {type: static, access_key_id_file: DIR/text, secret_access_key_file: DIR/text}}}`, "https://secretsmanager.eu-west-1.amazonaws.com::db"},
	{"Google", `{id: x, kind: GCP_SECRET_MANAGER, gcp: {projects: ["projects/my-project"], credential: {type: service_account_key, key_file: DIR/key.json}}}`, "projects/my-project/secrets/db"},
	{"Vault", `{id: x, kind: HASHICORP_VAULT, vault: {address: "https://vault.example.org:8200", mounts: [{path: secret, engine: kv2}],
		auth: {type: approle, role_id: r, secret_id_file: DIR/text}}}`, "https://vault.example.org:8200::secret/db"},
}

// TestProxyFaults: for each kind, a read and a validation blame the proxy for its faults,
// and not the store.
func TestProxyFaults(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "text"), "s3cret")
	put(t, filepath.Join(dir, "key.json"), serviceAccountKey(t))
	for _, fault := range []struct {
		name  string
		proxy *netfault.HTTPProxy // nil for a port that refuses connections
		want  string
	}{
		{"dead", nil, "refuses the connection"},
		{"502", &netfault.HTTPProxy{Status: 502}, "(HTTP 502)"},
		{"403", &netfault.HTTPProxy{Status: 403}, "(HTTP 403)"},
		{"407", &netfault.HTTPProxy{Status: 407}, "does not accept the user and password in HTTPS_PROXY (HTTP 407)"},
		{"hangs", &netfault.HTTPProxy{Silent: true}, "did not answer in time"},
	} {
		srv := httptest.NewUnstartedServer(fault.proxy)
		srv.Config.ErrorLog = log.New(io.Discard, "", 0)
		addr := srv.Listener.Addr().String()
		if fault.proxy == nil {
			_ = srv.Listener.Close() // now the port refuses connections
		} else {
			srv.Start()
			defer srv.Close()
		}
		t.Setenv("HTTPS_PROXY", "http://ops:hunter2@"+addr)
		t.Setenv("NO_PROXY", "")
		want := "the proxy " + addr + " (of the environment variable HTTPS_PROXY) "
		for _, tt := range behindProxy {
			t.Run(tt.name+" "+fault.name, func(t *testing.T) {
				parsed := All().ParseDocument([]byte(strings.ReplaceAll(tt.document, "DIR", dir)), integration.DocumentConfig{Files: []string{dir}})
				if parsed.Integration == nil {
					t.Fatal(parsed.Faults.Err())
				}
				openers := Openers(provider.Config{Logger: slog.New(slog.DiscardHandler), TryTimeout: 200 * time.Millisecond, MaxRetries: -1})
				p, err := openers[parsed.Integration.Kind](t.Context(), parsed.Integration)
				if err != nil {
					t.Fatal(err)
				}
				defer p.Close()
				ref, err := secret.ParseRef(tt.ref)
				if err != nil {
					t.Fatal(err)
				}
				_, err = p.Fetch(t.Context(), ref)
				e := secret.AsError(err)
				if e.Reason != secret.ReasonStoreUnavailable || !strings.Contains(e.Message, want) || !strings.Contains(e.Message, fault.want) || strings.Contains(err.Error(), "hunter2") {
					t.Errorf("read: %v", err)
				}
				failed := ""
				for _, step := range p.(provider.Validator).Validate(t.Context()) {
					if step.Err != nil {
						failed += secret.AsError(step.Err).Message
					}
				}
				if !strings.Contains(failed, want) || !strings.Contains(failed, fault.want) {
					t.Errorf("validation: %q", failed)
				}
			})
		}
	}
}

func serviceAccountKey(t *testing.T) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "reader@my-project.iam.gserviceaccount.com", "token_uri": "https://oauth2.googleapis.com/token",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(doc)
}
