package devmode

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/secretbroker/secretbroker/internal/devmode/secretmanager"
	"github.com/secretbroker/secretbroker/internal/keyfile"
)

// The names of the Google Cloud samples.
const (
	GoogleIntegrationID = "cspi-google"
	GoogleProject       = "projects/my-project"

	googleRegion = GoogleProject + "/locations/europe-west3"
	googleEvents = GoogleProject + "/subscriptions/secretbroker"
	googleReader = "connect-reader@my-project.iam.gserviceaccount.com"
	googlePool   = "//iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/broker"
	googleBroker = "principal:" + googlePool + "/subject/broker"
)

// Google is the embedded Secret Manager and the files that belong to it.
type Google struct {
	// IntegrationFile and SecretsFile, the Secret Manager's content, are written once. The
	// user may edit them.
	IntegrationFile, SecretsFile string
	// ConfigFile is the configuration of workload identity federation, and TokenFile the
	// broker's token of the other identity provider. Every Start replaces them.
	ConfigFile, TokenFile string
	// SecretManager gives access to its counter of reads.
	SecretManager *secretmanager.Server
}

// addGoogle writes the files of the embedded Secret Manager, and returns a handler that
// serves it at the Key Vault's address.
func (env *Environment) addGoogle(opts Options) (http.Handler, error) {
	dir, err := filepath.Abs(env.Dir) // the configuration requires absolute paths
	if err != nil {
		return nil, err
	}
	g := &Google{
		IntegrationFile: filepath.Join(filepath.Dir(env.IntegrationFile), GoogleIntegrationID+".yaml"),
		SecretsFile:     filepath.Join(env.Dir, "google-secrets.yaml"),
		ConfigFile:      filepath.Join(env.Dir, "google-federation.json"),
		TokenFile:       filepath.Join(dir, "google-token.txt"),
	}
	env.Google = g
	data := map[string]any{"Env": env, "ID": GoogleIntegrationID, "Reader": googleReader, "Events": googleEvents}
	if err := writeTemplate(g.SecretsFile, "google-secrets.yaml", data, writeIfAbsent); err != nil {
		return nil, err
	}
	if err := writeTemplate(g.IntegrationFile, "google-integration.yaml", data, writeIfAbsent); err != nil {
		return nil, err
	}
	if text, err := os.ReadFile(g.IntegrationFile); err == nil && !bytes.Contains(text, []byte(env.VaultListen)) {
		opts.Logger.Warn("the integration with the embedded Secret Manager dials another address; change gcp.dial, or delete the file to have it recreated",
			"file", g.IntegrationFile, "address", env.VaultListen)
	}
	subject := rand.Text() + rand.Text()
	if err := keyfile.Replace(g.TokenFile, []byte(subject+"\n")); err != nil {
		return nil, err
	}
	config, err := json.MarshalIndent(map[string]any{
		"type":               "external_account",
		"audience":           googlePool + "/providers/development",
		"subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
		"token_url":          "https://sts.googleapis.com/v1/token",
		"credential_source":  map[string]any{"file": g.TokenFile},
	}, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := keyfile.Replace(g.ConfigFile, append(config, '\n')); err != nil {
		return nil, err
	}
	g.SecretManager, err = secretmanager.Open(secretmanager.FileConfig{
		Path: g.SecretsFile, Logger: opts.Logger, Now: opts.Now,
		Base: secretmanager.State{
			ServiceAccounts: map[string]*secretmanager.ServiceAccount{googleReader: {TokenCreators: []string{googleBroker}}},
			SubjectTokens:   map[string]string{subject: googleBroker},
			Subscriptions:   map[string]*secretmanager.Subscription{googleEvents: {Subscribers: []string{googleReader}}},
		},
	})
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		if strings.HasSuffix(strings.ToLower(host), ".googleapis.com") {
			g.SecretManager.ServeHTTP(w, r)
			return
		}
		env.KeyVault.ServeHTTP(w, r)
	}), nil
}
