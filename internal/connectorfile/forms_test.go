package connectorfile

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	strimzi = `# of an operator
apiVersion: kafka.strimzi.io/v1beta2
kind: KafkaConnect
metadata: {name: workers}
spec:
  config:
    config.providers: secretbroker
---
apiVersion: kafka.strimzi.io/v1beta2
kind: KafkaConnector
metadata:
  name: orders
spec:
  class: io.debezium.connector.sqlserver.SqlServerConnector
  tasksMax: 1
  config:
    database.password: "https://v.vault.azure.net::s::password"  # note
    database.port: 1433
    snapshot: true
`
	confluent = `apiVersion: platform.confluent.io/v1beta1
kind: Connector
metadata: {name: of-kubernetes}
spec:
  name: of-kafka
  configs:
    connection.password: ${secretbroker:pg:https://v.vault.azure.net::p}
---
`
	mirror = `apiVersion: kafka.strimzi.io/v1beta2
kind: KafkaMirrorMaker2
metadata: {name: mm}
spec:
  mirrors:
    - sourceConnector:
        config: {a: 1}
      heartbeatConnector:
        config: {b: 2}
`
)

// TestForms parses the forms in which connectors are kept. The cases yaml-strimzi and
// check-placeholder begin here.
func TestForms(t *testing.T) {
	type connector struct {
		Name    string
		Configs map[string]string
	}
	tests := []struct {
		name, file, text string
		want             []connector
		fault            string
		line             int
	}{
		{
			name: "yaml-strimzi", file: "c.yaml", text: strimzi,
			want: []connector{{"orders", map[string]string{"database.password": "https://v.vault.azure.net::s::password", "database.port": "1433", "snapshot": "true"}}},
		},
		{name: "the same without an extension", file: "-", text: strimzi, want: []connector{{"orders", map[string]string{"database.password": "https://v.vault.azure.net::s::password", "database.port": "1433", "snapshot": "true"}}}},
		{name: "Confluent for Kubernetes", file: "c.yml", text: confluent, want: []connector{{"of-kafka", map[string]string{"connection.password": "${secretbroker:pg:https://v.vault.azure.net::p}"}}}},
		{name: "MirrorMaker 2", file: "c.yaml", text: mirror, want: []connector{{"sourceConnector", map[string]string{"a": "1"}}, {"heartbeatConnector", map[string]string{"b": "2"}}}},
		{name: "List", file: "c.yaml", text: "kind: List\napiVersion: v1\nitems:\n- {kind: KafkaConnector, apiVersion: kafka.strimzi.io/v1, metadata: {name: n}, spec: {config: {a: b}}}", want: []connector{{"n", map[string]string{"a": "b"}}}},
		{name: "nested like the JSON", file: "c.yaml", text: "name: n\nconfig:\n  a: 0x10\n  b: 1e3", want: []connector{{"n", map[string]string{"a": "0x10", "b": "1e3"}}}},
		{name: "no connector", file: "c.yaml", text: "apiVersion: v1\nkind: Secret\nstringData: {a: canary}", fault: "the file has no connector", line: 1},
		{name: "empty YAML", file: "c.yaml", text: "---\n", fault: "the file is empty", line: 1},
		{name: "not YAML", file: "c.yaml", text: "a: 1\nb: {canary\n", fault: "not valid YAML", line: 2},
		{name: "alias", file: "c.yaml", text: "a: &x canary\nb: *x\n", fault: "aliases", line: 2},
		{name: "merged keys", file: "c.yaml", text: "config:\n  <<: {a: canary}\n", fault: "aliases", line: 2},
		{name: "list as value", file: "c.yaml", text: "a: [canary]", fault: `"a": expected text`, line: 1},
		{name: "null as value", file: "c.yaml", text: "b: 1\na:", fault: `"a": expected text`, line: 2},
		{name: "twice", file: "c.yaml", text: "a: canary\na: 1", fault: `"a" occurs twice`, line: 2},
		{name: "Aiven's operator", file: "c.yaml", text: "apiVersion: aiven.io/v1alpha1\nkind: KafkaConnector\nmetadata: {name: n}\nspec: {connectorClass: c, userConfig: {a: b}}", want: []connector{{"n", map[string]string{"a": "b"}}}},
		{name: "KafkaConnector of another API", file: "c.yaml", text: "kind: KafkaConnector\napiVersion: example.org/v1\nspec: {properties: {a: canary}}", fault: "the API group", line: 2},
		{name: "byte order mark", file: "c.json", text: "\xef\xbb\xbf{\"a\":\"b\"}", want: []connector{{"", map[string]string{"a": "b"}}}},
		{name: "byte order mark without an extension", file: "-", text: "\xef\xbb\xbf{\"a\":\"b\"}", want: []connector{{"", map[string]string{"a": "b"}}}},
		{name: "comment in JSON", file: "c.json", text: "{\n// canary\n\"a\":1}", fault: "a comment?", line: 2},
		{name: "shell script", file: "create.sh", text: "#!/bin/sh\ncurl -X PUT -d '{\n  \"secret.manager.enabled\": \"canary\"\n}'", fault: "a name in quotation marks", line: 3},
		{name: "ksqlDB statement", file: "sink.sql", text: "CREATE SINK CONNECTOR a WITH (\n 'secret.manager.enabled' = 'canary');", fault: "a name in quotation marks", line: 2},
		{name: "YAML called properties", file: "c.properties", text: strimzi, fault: "ends with .yaml", line: 1},
		{
			name: "expand=info", file: "connectors.json",
			text: `{"b":{"info":{"name":"b","config":{"name":"b","x":"1"},"tasks":[{"connector":"b","task":0}],"type":"sink"}},
"a":{"status":{},"info":{"name":"a","config":{"name":"a"}}}}`,
			want: []connector{{"a", map[string]string{"name": "a"}}, {"b", map[string]string{"name": "b", "x": "1"}}},
		},
		{name: "list", file: "all.json", text: `[{"name":"a","config":{"x":1}},{"name":"b"}]`, want: []connector{{"a", map[string]string{"x": "1"}}, {"b", map[string]string{"name": "b"}}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			all, err := Parse(tt.file, []byte(tt.text))
			if tt.fault != "" {
				e, ok := errors.AsType[*Error](err)
				if !ok || !strings.Contains(e.Text, tt.fault) || e.Line != tt.line || strings.Contains(err.Error(), "canary") {
					t.Errorf("got %v, want %q on line %d", err, tt.fault, tt.line)
				}
				return
			}
			var got []connector
			for _, c := range all {
				got = append(got, connector{c.Name, c.Configs})
			}
			if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}

func TestLinesOfYAML(t *testing.T) {
	c, err := parseOne("c.yaml", []byte(strimzi))
	if err != nil || c.Lines["database.password"] != 17 || c.Lines["snapshot"] != 19 {
		t.Errorf("%v, %v", c.Lines, err)
	}
}

func TestPlaceholders(t *testing.T) {
	const names = "names no integration"
	tests := []struct {
		name, value string
		want        []Placeholder
	}{
		{"none", "jdbc:postgresql://db/x", nil},
		{"whole", "${broker:cspi:https://v.vault.azure.net::s::user}", []Placeholder{{Integration: "cspi", Reference: "https://v.vault.azure.net::s::user", Whole: true}}},
		{
			"check-placeholder-inside", "jdbc:postgresql://db:5432/x?user=${broker:pg:https://v.vault.azure.net::u}&password=${secretbroker:pg:https://v.vault.azure.net::p}&x=${file:/x:y}",
			[]Placeholder{{Integration: "pg", Reference: "https://v.vault.azure.net::u"}, {Integration: "pg", Reference: "https://v.vault.azure.net::p"}},
		},
		{"another provider", "${file:/x:y}${env:PATH}${brokers:a:b}", nil},
		{"no integration", "${broker:projects/p/secrets/s}", []Placeholder{{Fault: names}}},
		{"reference in its place", "${broker:https://v.vault.azure.net::s}", []Placeholder{{Fault: "where the integration belongs"}}},
		{"ARN in its place", "${broker:arn:aws:secretsmanager:eu-west-1:111122223333:secret:x-AbCdEf}", []Placeholder{{Fault: "where the integration belongs"}}},
		{"environment in its place", "${broker:env::NAME}", []Placeholder{{Fault: "where the integration belongs"}}},
		{"empty integration", "${broker::https://x}", []Placeholder{{Fault: names}}},
		{"empty reference", "${broker:cspi:}", []Placeholder{{Fault: names}}},
		{"not closed", "a ${broker:cspi:https://v", []Placeholder{{Fault: "no closing"}}},
		{"not closed, then another", "${broker:a:b} ${broker:cspi:x", []Placeholder{{Integration: "a", Reference: "b"}, {Fault: "no closing"}}},
		{"connector", "${broker:cspi/orders%20sink%3A%2Fa%7D%25%C3%A4:ref}", []Placeholder{{Integration: "cspi", Connector: "orders sink:/a}%ä", Reference: "ref", Whole: true}}},
		{"plus in a connector", "x${broker:cspi/a+b:ref}", []Placeholder{{Integration: "cspi", Connector: "a+b", Reference: "ref"}}},
		{"empty connector", "${broker:cspi/:ref}", []Placeholder{{Fault: "is empty"}}},
		{"slash in a connector", "${broker:cspi/a/b:ref}", []Placeholder{{Fault: "write %2F"}}},
		{"malformed connector", "${broker:cspi/a%2:ref}", []Placeholder{{Fault: "percent-encoded"}}},
		{"connector that is not UTF-8", "${broker:cspi/a%ff:ref}", []Placeholder{{Fault: "percent-encoded"}}},
		{"surrogate in a connector", "${broker:cspi/%ED%A0%80:ref}", []Placeholder{{Fault: "percent-encoded"}}},
		{"control character in a connector", "${broker:cspi/a%0A:ref}", []Placeholder{{Fault: "control character"}}},
		{"line separator in a connector", "${broker:cspi/a%E2%80%A8:ref}", []Placeholder{{Fault: "control character"}}},
		{"long connector", "${broker:cspi/" + strings.Repeat("%61", 257) + ":ref}", []Placeholder{{Fault: "longer than 256"}}},
		{"connector of no integration", "${broker:/a:ref}", []Placeholder{{Fault: names}}},
		{"begins inside another", "${x ${broker:cspi:y}", []Placeholder{{Fault: "begins inside another"}}},
		{"key with a brace", "${broker:cspi:https://v.vault.azure.net::s::a}b}", []Placeholder{{Integration: "cspi", Reference: "https://v.vault.azure.net::s::a"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Connector{Configs: map[string]string{"p": tt.value}}.Placeholders("broker", "secretbroker")
			if len(got) != len(tt.want) {
				t.Fatalf("got %+v", got)
			}
			for i, want := range tt.want {
				if !strings.Contains(got[i].Fault, want.Fault) || (got[i].Fault == "") != (want.Fault == "") {
					t.Errorf("fault %q, want %q", got[i].Fault, want.Fault)
				}
				got[i].Fault, want.Fault = "", ""
				if want.Property = "p"; got[i] != want {
					t.Errorf("got %+v, want %+v", got[i], want)
				}
			}
		})
	}
}
