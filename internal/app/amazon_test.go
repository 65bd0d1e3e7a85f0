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

// TestAWS resolves through a broker in a separate process that reads the embedded Secrets
// Manager with an assumed role.
func TestAWS(t *testing.T) {
	s := startCloud(t, devmode.Options{AWS: true}, devmode.AWSIntegrationID)
	const byName, byARN = devmode.AWSStore + "::prod/", devmode.AWSAccountARN + ":secret:prod/"
	res := s.resolve(t, map[string]string{
		"by name":      byName + "sqlserver::password",
		"by ARN":       byARN + "sqlserver-AbCdEf::password",
		"previous":     byARN + "sqlserver-AbCdEf#AWSPREVIOUS::password",
		"keystore":     byName + "keystore?decode=base64",
		"deleted":      byName + "deleted",
		"empty":        byName + "empty",
		"missing":      byName + "none",
		"forbidden":    byName + "denied",
		"another life": byARN + "sqlserver-ZzZzZz",
		"foreign":      "https://secretsmanager.us-east-1.amazonaws.com::prod/sqlserver",
		"ungranted":    devmode.AWSStore + "::staging/postgres-password",
		"half an ARN":  byARN + "sqlserver",
	}, time.Minute)
	for config, want := range map[string]string{"by name": "$trongPassw0rdExamp1e", "by ARN": "$trongPassw0rdExamp1e", "previous": "Tr0ub4dor&3"} {
		if got := res.Values[config]; got.Reveal() != want || len(got.Version) != 36 {
			t.Errorf("%s: version %q, %v", config, got.Version, res.Errors[config])
		}
	}
	if a, b := res.Values["by name"].Version, res.Values["previous"].Version; a == b {
		t.Errorf("both versions are %s", a)
	}
	if got := base64.StdEncoding.EncodeToString(res.Values["keystore"].Bytes()); got != "/u3+7QAAAAIAAAAA5UO5ZCmT2U3gGDqJGFd76BpI5Ec=" {
		t.Errorf("keystore: %d bytes, %v", len(got), res.Errors["keystore"])
	}
	checkReasons(t, res, map[string]client.Reason{
		"deleted": "SECRET_DISABLED", "empty": "SECRET_NOT_FOUND", "missing": "SECRET_NOT_FOUND", "forbidden": "STORE_ACCESS_DENIED",
		"another life": "SECRET_NOT_FOUND", "foreign": "STORE_NOT_ALLOWED", "ungranted": "ACCESS_DENIED", "half an ARN": "INVALID_REFERENCE",
	})

	// A rotation that is read by one name is seen by the other, and no call mixes versions.
	pair := map[string]string{"by name": byName + "sqlserver::password", "by ARN": byARN + "sqlserver-AbCdEf::password"}
	if err := edit(s.AWS.SecretsFile, "$trongPassw0rdExamp1e", "$econdPassw0rdExamp1e"); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		config string
		maxAge time.Duration
		want   string
	}{{"by name", time.Minute, "$trongPassw0rdExamp1e"}, {"by ARN", 0, "$econdPassw0rdExamp1e"}, {"by name", time.Minute, "$econdPassw0rdExamp1e"}} {
		if got := s.resolve(t, map[string]string{"p": pair[step.config]}, step.maxAge).Values["p"]; got.Reveal() != step.want {
			t.Errorf("%s after the rotation, max_age %v: another value than %s", step.config, step.maxAge, step.want)
		}
	}
	both := s.resolve(t, pair, 0)
	if a, b := both.Values["by name"], both.Values["by ARN"]; a.Reveal() != b.Reveal() || !a.FetchTime.Equal(b.FetchTime) {
		t.Errorf("one call, read at %v and at %v", a.FetchTime, b.FetchTime)
	}

	// Change the file of the embedded store: a rotation and an outage.
	s.rotateAndThrottle(t, s.AWS.SecretsFile, map[string]string{"p": byName + "postgres-password"}, "  eu-west-1:\n", "  eu-west-1:\n    fault: throttled\n")

	audit := readFile(filepath.Join(s.Dir, "audit.jsonl"))
	for _, text := range []string{audit, s.log.String()} {
		if strings.Contains(text, "Passw0rdExamp1e") || strings.Contains(text, strings.TrimSpace(readFile(s.AWS.SecretAccessKeyFile))) {
			t.Error("the output contains a value or a key")
		}
	}
	if !strings.Contains(audit, byARN+"sqlserver-AbCdEf#AWSPREVIOUS") {
		t.Error("the audit does not have the canonical reference")
	}
}
