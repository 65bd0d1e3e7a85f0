package app

import (
	"encoding/base64"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// TestGoogleCloud resolves through a broker in a separate process that reads the embedded
// Secret Manager: federation, impersonation, global and regional secrets.
func TestGoogleCloud(t *testing.T) {
	s := startCloud(t, devmode.Options{GoogleCloud: true}, devmode.GoogleIntegrationID)
	const secrets = devmode.GoogleProject + "/secrets/"
	res := s.resolve(t, map[string]string{
		"newest":   secrets + "sqlserver-db-secret::password",
		"alias":    secrets + "sqlserver-db-secret#stable::password",
		"pinned":   secrets + "sqlserver-db-secret/versions/2::user",
		"regional": devmode.GoogleProject + "/locations/europe-west3/secrets/sqlserver-regional",
		"keystore": secrets + "sqlserver-keystore?decode=base64",
		"disabled": secrets + "sqlserver-disabled",
		"empty":    secrets + "sqlserver-empty",
		"missing":  secrets + "sqlserver-none",
		"no role":  "projects/no-role-project/secrets/sqlserver-db-secret",
		"foreign":  "projects/another-project/secrets/sqlserver-db-secret",
		"by case":  secrets + "SQLSERVER-db-secret",
		"denied":   secrets + "oracle-password",
	}, time.Minute)
	for config, want := range map[string]struct{ value, version string }{
		"newest": {"$trongPassw0rdExamp1e", "2"}, "alias": {"Tr0ub4dor&3", "1"}, "pinned": {"dbadmin", "2"}, "regional": {"regionalPassw0rdExamp1e", "1"},
	} {
		if got := res.Values[config]; got.Reveal() != want.value || got.Version != want.version {
			t.Errorf("%s: version %q, %v", config, got.Version, res.Errors[config])
		}
	}
	if got := base64.StdEncoding.EncodeToString(res.Values["keystore"].Bytes()); got != "/u3+7QAAAAIAAAAA5UO5ZCmT2U3gGDqJGFd76BpI5Ec=" {
		t.Errorf("keystore: %d bytes, %v", len(got), res.Errors["keystore"])
	}
	checkReasons(t, res, map[string]client.Reason{
		"disabled": "SECRET_DISABLED", "empty": "SECRET_NOT_FOUND", "missing": "SECRET_NOT_FOUND", "no role": "STORE_ACCESS_DENIED",
		"foreign": "STORE_NOT_ALLOWED", "by case": "ACCESS_DENIED", "denied": "ACCESS_DENIED",
	})

	// A whole connector's configuration, as in the secret manager integration of
	// Confluent Cloud.
	whole, err := s.Resolve(t.Context(), client.ResolveRequest{Configs: map[string]string{
		"connector.class": "x", "connection.password": secrets + "sqlserver-db-secret::password",
		"secret.manager.enabled": "true", "secret.manager": "GCP_SECRET_MANAGER", "secret.manager.managed.configs": "connection.password",
		"secret.manager.provider.integration.id": devmode.GoogleIntegrationID,
	}, IntegrationID: devmode.GoogleIntegrationID})
	if err != nil || len(whole.Values) != 1 {
		t.Errorf("a whole configuration: %v, %v", whole, err)
	}

	// Change the file of the embedded store: a rotation and an outage.
	s.rotateAndThrottle(t, s.Google.SecretsFile, map[string]string{"p": secrets + "postgres-password"}, "  my-project:\n", "  my-project:\n    fault: throttled\n    retry_after: 2s\n")

	audit := readFile(filepath.Join(s.Dir, "audit.jsonl"))
	for _, text := range []string{audit, s.log.String()} {
		if strings.Contains(text, "Passw0rdExamp1e") || strings.Contains(text, "ya29.") {
			t.Error("the output contains a value or a token")
		}
	}
	if !strings.Contains(audit, secrets+"sqlserver-db-secret#stable") {
		t.Error("the audit does not have the canonical reference")
	}
}
