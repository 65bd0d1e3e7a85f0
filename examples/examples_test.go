package examples_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/examples"
	"github.com/secretbroker/secretbroker/internal/connectorfile"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// connector is a configuration in the form of Kafka Connect: every value is text.
type connector struct {
	Name   string            `json:"name"`
	Config map[string]string `json:"config"`
}

// The samples outside of faults/ can be parsed, and their references are valid.
// referencesOf returns the configs that the broker resolves: without secret.manager
// properties, all of them.
func referencesOf(c connectorfile.Connector) map[string]string {
	if managed := c.Managed(); len(managed) > 0 {
		return managed
	}
	return c.Configs
}

func TestReferences(t *testing.T) {
	names, err := filepath.Glob("*.[jp]*")
	if err != nil || len(names) < 2 {
		t.Fatalf("samples %v, error %v", names, err)
	}
	clouds := make(map[string]bool)
	forms := make(map[string]bool)
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			connectors, err := connectorfile.Parse(name, data)
			if err != nil || len(connectors) != 1 {
				t.Fatalf("%d connectors, %v", len(connectors), err)
			}
			c := connectors[0]
			if c.Configs["secret.manager.enabled"] == "false" {
				return
			}
			refs := 0
			for config, text := range referencesOf(c) {
				if strings.HasPrefix(config, "secret.manager") {
					continue
				}
				refs++
				ref, err := secret.ParseRef(text)
				if err != nil {
					t.Errorf("%s: %v", config, err)
				}
				cloud, _ := secret.AzureCloudOf(ref.Store)
				clouds[cloud.Name] = true
				forms[fmt.Sprintf("version %t, decoding %t, key %t", ref.Version != "", ref.Decoding != "", ref.Key != "")] = true
			}
			if refs == 0 {
				t.Error("there is no reference in it")
			}
		})
	}
	for _, cloud := range []string{"AzurePublic", "AzureChina", "AzureGovernment"} {
		if !clouds[cloud] {
			t.Errorf("no sample for a vault of %s", cloud)
		}
	}
	for _, form := range []string{
		"version false, decoding false, key false",
		"version false, decoding false, key true",
		"version true, decoding false, key false",
		"version false, decoding true, key false",
		"version false, decoding true, key true",
	} {
		if !forms[form] {
			t.Errorf("no sample for a reference with %s", form)
		}
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
