package connectorfile

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestFamilies finds the references in one configuration of each connector family that the
// documentation names, in the form in which its users keep it.
func TestFamilies(t *testing.T) {
	want := map[string][]string{ // file to "connector: property integration reference"
		"aiven-operator.yaml": {
			"orders-sink: connection.password cspi-pg https://my-vault.vault.azure.net::orders",
		},
		"bigquery-sink.json": {
			": keyfile cspi-gcp projects/my-project/secrets/bigquery-key",
		},
		"confluent-cloud-managed.json": {
			"SqlServerCdcSourceV2: database.password cspi-4xg0q https://your-key-vault-name.vault.azure.net::sqlserver-db-secret::password",
			"SqlServerCdcSourceV2: database.user cspi-4xg0q https://your-key-vault-name.vault.azure.net::sqlserver-db-secret::user",
		},
		"confluent-for-kubernetes.yaml": {
			"servicenow: servicenow.password cspi-saas https://my-vault.vault.azure.net::servicenow",
		},
		"debezium-mongodb.json": {
			"orders: mongodb.connection.string cspi-cdc projects/my-project/secrets/mongo",
		},
		"debezium-mysql-put.json": {
			": database.password cspi-cdc arn:aws:secretsmanager:eu-west-1:111122223333:secret:prod/mysql-AbCdEf::password",
		},
		"debezium-postgres-strimzi.yaml": {
			"orders: database.password cspi-pg https://vault.example.org:8200::secret/db::password",
			"orders: database.user cspi-pg https://vault.example.org:8200::secret/db::user",
		},
		"debezium-sqlserver.json": {
			"inventory: database.password cspi-cdc https://my-vault.vault.azure.net::sqlserver::password",
			"inventory: database.user cspi-cdc https://my-vault.vault.azure.net::sqlserver::user",
			"inventory: schema.history.internal.consumer.sasl.jaas.config cspi-kafka https://my-vault.vault.azure.net::history",
			"inventory: schema.history.internal.producer.sasl.jaas.config cspi-kafka https://my-vault.vault.azure.net::history",
		},
		"elasticsearch-and-s3-export.json": {
			"elasticsearch: connection.password cspi-es https://my-vault.vault.azure.net::es",
		},
		"file-stream.properties": nil,
		"http-sink-oauth.json": {
			"http: http.headers.authorization cspi-saas https://my-vault.vault.azure.net::api-token",
		},
		"jdbc-source-standalone.properties": {
			"jdbc-source: connection.password cspi-oracle https://my-vault.vault.azure.net::oracle::password",
			"jdbc-source: connection.user cspi-oracle https://my-vault.vault.azure.net::oracle::user",
		},
		"mirrormaker2-strimzi.yaml": {
			"sourceConnector: source.cluster.sasl.jaas.config cspi-mm https://my-vault.vault.azure.net::mm",
		},
		"salesforce-source.json": {
			"salesforce: salesforce.password cspi-saas https://my-vault.vault.azure.net::salesforce::password",
			"salesforce: salesforce.password.token cspi-saas https://my-vault.vault.azure.net::salesforce::token",
			"salesforce: salesforce.username cspi-saas https://my-vault.vault.azure.net::salesforce::user",
		},
		"snowflake-sink.json": {
			"snowflake: snowflake.private.key cspi-dwh https://secretsmanager.eu-west-1.amazonaws.com::prod/snowflake::key",
			"snowflake: snowflake.private.key.passphrase cspi-dwh https://secretsmanager.eu-west-1.amazonaws.com::prod/snowflake::passphrase",
		},
	}
	files, err := filepath.Glob("testdata/families/*")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(want) {
		t.Errorf("%d files, %d expectations", len(files), len(want))
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got, err := referencesIn(file, data)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want[filepath.Base(file)], got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// referencesIn lists the references in a file, those of placeholders and those of
// secret.manager properties.
func referencesIn(file string, data []byte) ([]string, error) {
	connectors, err := Parse(file, data)
	if err != nil {
		return nil, err
	}
	var all []string
	add := func(c Connector, property, integration, reference string) {
		all = append(all, fmt.Sprintf("%s: %s %s %s", c.Name, property, integration, reference))
	}
	for _, c := range connectors {
		for _, p := range c.Placeholders("secretbroker") {
			if p.Fault != "" {
				return nil, fmt.Errorf("%s: %s", p.Property, p.Fault)
			}
			add(c, p.Property, p.Integration, p.Reference)
		}
		for property, value := range c.Managed() {
			if strings.HasPrefix(property, "secret.manager") {
				continue
			}
			add(c, property, c.IntegrationID(), value)
		}
	}
	slices.Sort(all)
	return all, nil
}
