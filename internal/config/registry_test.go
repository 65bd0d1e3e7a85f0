package config

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

func TestRegistry(t *testing.T) {
	dir, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Load(filepath.Join(dir, "registry.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	want := Registry{
		Postgres:        Postgres{URL: "postgres://broker@db.example.org/secretbroker", PasswordFile: filepath.Join(dir, "db-password")},
		Seal:            Seal{KeyFile: filepath.Join(dir, "registry.key")},
		AllowedFiles:    []string{filepath.Join(dir, "ca"), "/var/run/secrets/tokens"},
		MaxIntegrations: 1000, MaxOutage: strictyaml.Duration(time.Hour),
	}
	if diff := cmp.Diff(want, c.Registry); diff != "" || time.Duration(c.Usage.Retention) != 30*24*time.Hour {
		t.Errorf("%s\nusage %+v", diff, c.Usage)
	}
	c, err = Parse(filepath.Join(dir, "b.yaml"), []byte("registry: {sqlite: {file: r.db}}\n"+withoutIntegrations))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Registry.SQLite.File; got != filepath.Join(dir, "r.db") || c.Registry.MaxIntegrations != 100 || time.Duration(c.Registry.MaxOutage) != 15*time.Minute {
		t.Errorf("%+v", c.Registry)
	}
}

const withoutIntegrations = `tls: {cert_file: a, key_file: b, client_ca_file: c}
audit: {file: stdout}
`

func registryFaults() []faultTest {
	tests := []faultTest{
		{"", "", "b.yaml:1: registry: missing; it is required: where the integrations are, such as {directory: {path: integrations/}}, or a database, sqlite or postgres"},
		{"", "registry: {}", "b.yaml:3: registry: the place of the integrations is missing: add directory, or sqlite, a database for one broker, or postgres"},
		{"", "registry: {directory: {path: d}, sqlite: {file: r.db}}", "b.yaml:3: registry.sqlite: integrations are in one place, and there are directory and sqlite; remove all but one"},
		{"", "registry: {directory: {}}", "b.yaml:3: registry.directory.path: missing; it is required: the directory of the integrations' files"},
		{"", "registry: {directory: d}", "b.yaml:3: registry.directory: expected a section of settings (name: value), found a single value"},
		{"", "registry: {directory: {path: d}, max_outage: 1h}", "b.yaml:3: registry.max_outage: applies to a database (sqlite or postgres) only; remove the setting"},
		{"", "registry: {directory: {path: d}, seal: {key_file: k}}", "b.yaml:3: registry.seal: applies to a database (sqlite or postgres) only; remove the setting"},
		{"", "registry: {sqlite: {file: a}, seal: {}}", "b.yaml:3: registry.seal.key_file: missing; it is required: the file with the keys; secretbroker seal create-key makes it"},
		{"", "registry: {sqlite: {file: a}, key_file: k}", `b.yaml:3: registry: unknown setting "key_file"; it is now registry.seal.key_file`},
		{"", "registry: {sqlite: {file: a}, files: [k]}", `b.yaml:3: registry: unknown setting "files"; it is now registry.allowed_files`},
		{"", "registry: {sqlite: {file: a}, usage_retention: 90d}", `b.yaml:3: registry: unknown setting "usage_retention"; it is now usage.retention`},
		{"", "registry: {sqlite: {file: a}}\nintegrations: d", `b.yaml:4: unknown setting "integrations"; it is now registry.directory.path`},
		{"", "registry: {sqlite: {}}", "b.yaml:3: registry.sqlite.file: missing; it is required: the file of the database"},
		{"", "registry: {postgres: {}}", "b.yaml:3: registry.postgres.url: missing; it is required: the URL of the database, such as postgres://broker@db.example.org/secretbroker"},
		{"", "registry: {sqlite: {file: a}, postgres: {url: 'postgres:///x?host=/s'}}", "b.yaml:3: registry.postgres: integrations are in one place, and there are sqlite and postgres; remove all but one"},
		{"", "registry: {postgres: {url: 'postgres://u:hunter2@db/x'}}", "b.yaml:3: registry.postgres.url: the URL contains a password; put it into a file and set password_file to its path"},
		{"", "registry: {postgres: {url: 'postgres://u@db/x?sslmode=prefer'}}", "b.yaml:3: registry.postgres.url: a connection to a database on another host requires sslmode=verify-full, which is the default if sslmode is not set"},
		{"", "registry: {sqlite: {file: a}, allowed_files: ['']}", "b.yaml:3: registry.allowed_files[0]: there is no value; add a value or remove the setting"},
		{"", "registry: {sqlite: {file: a}, max_integrations: 0}", "b.yaml:3: registry.max_integrations: expected 1 to 100000"},
		{"", "registry: {sqlite: {file: a}, max_outage: 0s}", "b.yaml:3: registry.max_outage: expected 1s to 24h"},
		{"", "registry: {sqlite: {file: a}}\nusage: {retention: 3661d}", "b.yaml:4: usage.retention: expected 1h to 3660d"},
	}
	for i := range tests {
		tests[i].data = withoutIntegrations + tests[i].data + "\n"
	}
	return tests
}

func TestRegistryFaults(t *testing.T) {
	for _, tt := range registryFaults() {
		if _, err := Parse("b.yaml", []byte(tt.data)); err == nil || err.Error() != tt.want {
			t.Errorf("%s:\n got %v\nwant %s", tt.data, err, tt.want)
		}
	}
}
