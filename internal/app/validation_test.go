package app

import (
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/devmode"
)

// /readyz and a metric report an integration that does not work. The broker is ready
// nevertheless, because the others work.
func TestValidationFeedsReadiness(t *testing.T) {
	b := newBroker(t, func(env *devmode.Environment) error {
		data, err := os.ReadFile(env.ConfigFile)
		if err != nil {
			return err
		}
		if err := replace(env.ConfigFile, string(data)+"validation: {at_start: true}\n"); err != nil {
			return err
		}
		// A grant of an exact name: what a vault denies for it, it denies to callers.
		if data, err = os.ReadFile(env.IntegrationFile); err != nil {
			return err
		}
		return replace(env.IntegrationFile, strings.Replace(string(data), "postgres-*", "postgres-password", 1))
	})
	get := func(path string) (int, string) {
		res, err := http.Get("http://" + b.admin + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(body)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for {
		code, body := get("/readyz")
		if strings.Contains(body, `"component":"validation"`) && strings.Contains(body, "cspi-sqlserver: read https://no-role-key-vault.vault.azure.net: STORE_ACCESS_DENIED") {
			if code != http.StatusOK {
				t.Errorf("not ready because of it: %d", code)
			}
			break
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never validated: %s", body)
		}
	}
	if _, body := get("/metrics"); !strings.Contains(body, `secretbroker_integrations_validated{result="failed"} 1`) || !strings.Contains(body, `secretbroker_integrations_validated{result="ok"} 0`) {
		t.Error("not counted")
	}
}
