package devmode_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/secretbroker/secretbroker/internal/devmode"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestGoogleFiles: a second Start keeps the user's files and replaces the broker's. All
// files are accessible for their owner only.
func TestGoogleFiles(t *testing.T) {
	dir := t.TempDir()
	opts := freePort(dir)
	opts.GoogleCloud = true
	first := start(t, opts)
	token := string(read(t, first.Google.TokenFile))
	var config struct {
		Type   string `json:"type"`
		Source struct {
			File string `json:"file"`
		} `json:"credential_source"`
	}
	if err := json.Unmarshal(read(t, first.Google.ConfigFile), &config); err != nil {
		t.Fatal(err)
	}
	if config.Type != "external_account" || config.Source.File != first.Google.TokenFile || !filepath.IsAbs(config.Source.File) {
		t.Errorf("the configuration is %+v, the token in %s", config, first.Google.TokenFile)
	}
	var in struct {
		Kind string
		GCP  struct {
			Projects []string
			Dial     map[string]string
		}
	}
	if err := yaml.Unmarshal(read(t, first.Google.IntegrationFile), &in); err != nil {
		t.Fatal(err)
	}
	if in.Kind != string(secret.KindGCPSecretManager) {
		t.Errorf("the integration is of kind %q", in.Kind)
	}
	for _, p := range in.GCP.Projects {
		if _, err := secret.KindGCPSecretManager.ParseStore(p); err != nil {
			t.Error(err)
		}
		if at := in.GCP.Dial[secret.GCPEndpoint(p)]; at != first.VaultListen {
			t.Errorf("%s is dialled at %q, not at %s", secret.GCPEndpoint(p), at, first.VaultListen)
		}
	}
	for _, file := range []string{first.Google.IntegrationFile, first.Google.SecretsFile, first.Google.ConfigFile, first.Google.TokenFile} {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, info, err)
		}
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}

	for _, file := range []string{first.Google.IntegrationFile, first.Google.SecretsFile} {
		if err := os.WriteFile(file, append(read(t, file), "# edited\n"...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	second := start(t, opts)
	for _, file := range []string{second.Google.IntegrationFile, second.Google.SecretsFile} {
		if !bytes.HasSuffix(read(t, file), []byte("# edited\n")) {
			t.Errorf("%s was rewritten", file)
		}
	}
	if string(read(t, second.Google.TokenFile)) == token {
		t.Error("the token was not replaced")
	}
}

// TestGoogleDialsElsewhere: the log warns about an integration that dials another address,
// because all its reads would fail.
func TestGoogleDialsElsewhere(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	opts := freePort(dir)
	opts.GoogleCloud = true
	opts.Logger = slog.New(slog.NewTextHandler(&log, nil))
	env := start(t, opts)
	if strings.Contains(log.String(), "level=WARN") {
		t.Errorf("the log has no warning: %s", log.String())
	}
	if err := env.Close(); err != nil {
		t.Fatal(err)
	}
	data := bytes.ReplaceAll(read(t, env.Google.IntegrationFile), []byte(env.VaultListen), []byte("127.0.0.1:1"))
	if err := os.WriteFile(env.Google.IntegrationFile, data, 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, opts)
	if !strings.Contains(log.String(), devmode.GoogleIntegrationID+".yaml") {
		t.Errorf("the log does not name the file: %s", log.String())
	}
}

// TestGoogleBrokenSecrets: an invalid secrets file fails the start, and no error quotes it.
func TestGoogleBrokenSecrets(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "google-secrets.yaml"), []byte("projects: [tr0ub4dor]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	opts := freePort(dir)
	opts.GoogleCloud = true
	env, err := devmode.Start(t.Context(), opts)
	if err == nil {
		env.Close()
		t.Fatal("started")
	}
	if !strings.Contains(err.Error(), "google-secrets.yaml: line 1") || strings.Contains(err.Error(), "tr0ub4dor") {
		t.Errorf("got %v", err)
	}
}
