package examples_test

import (
	"encoding/json"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/examples"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// connector is a configuration as Kafka Connect takes it: every value is text.
type connector struct {
	Name   string            `json:"name"`
	Config map[string]string `json:"config"`
}

func TestManagedConfigsAreReferences(t *testing.T) {
	names, err := fs.Glob(examples.Files, "*.json")
	if err != nil || len(names) == 0 {
		t.Fatalf("samples %v, error %v", names, err)
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			c := read(t, name)
			if c.Config["secret.manager.enabled"] != "true" {
				t.Error("the secret manager is not enabled")
			}
			if got := c.Config["secret.manager"]; got != string(secret.KindAzureKeyVault) {
				t.Errorf("secret.manager = %q", got)
			}
			for config := range strings.SplitSeq(c.Config["secret.manager.managed.configs"], ",") {
				if _, err := secret.ParseRef(c.Config[config]); err != nil {
					t.Errorf("%s: %v", config, err)
				}
			}
		})
	}
}

func TestSQLServerCDC(t *testing.T) {
	want := connector{
		Name: "SqlServerCdcSource1",
		Config: map[string]string{
			"connector.class":                        "SqlServerCdcSourceV2",
			"name":                                   "SqlServerCdcSource1",
			"kafka.auth.mode":                        "SERVICE_ACCOUNT",
			"kafka.service.account.id":               "sa-xxxxxx",
			"authentication.method":                  "Password",
			"secret.manager.enabled":                 "true",
			"secret.manager":                         "AZURE_KEY_VAULT",
			"secret.manager.managed.configs":         "database.password,database.user",
			"secret.manager.provider.integration.id": "cspi-sqlserver",
			"database.hostname":                      "203.0.113.0",
			"database.port":                          "1433",
			"database.user":                          "https://your-key-vault-name.vault.azure.net::sqlserver-db-secret::user",
			"database.password":                      "https://your-key-vault-name.vault.azure.net::sqlserver-db-secret::password",
			"database.names":                         "db123",
			"database.encrypt":                       "false",
			"output.data.format":                     "JSON",
			"output.key.format":                      "JSON",
			"table.include.list":                     "table123",
			"topic.prefix":                           "sqlcdc",
			"tasks.max":                              "1",
		},
	}
	if diff := cmp.Diff(want, read(t, "sqlserver-cdc.json")); diff != "" {
		t.Errorf("sqlserver-cdc.json (-want +got):\n%s", diff)
	}
}

func read(t *testing.T, name string) connector {
	t.Helper()
	data, err := examples.Files.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var c connector
	if err := json.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	return c
}
