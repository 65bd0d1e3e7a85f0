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
		KeyFile:         filepath.Join(dir, "registry.key"),
		Files:           []string{filepath.Join(dir, "ca"), "/var/run/secrets/tokens"},
		MaxIntegrations: 1000, MaxOutage: strictyaml.Duration(time.Hour), UsageRetention: strictyaml.Duration(720 * time.Hour),
	}
	if diff := cmp.Diff(want, c.Registry); diff != "" || c.Integrations != "" {
		t.Errorf("%s\nintegrations %q", diff, c.Integrations)
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

func TestRegistryFaults(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"", "b.yaml:1: integrations: missing; it is required: the directory of the integrations' files"},
		{"integrations: d\nregistry: {sqlite: {file: r.db}}", "b.yaml:4: registry: integrations come from files (integrations) or from a database (registry); remove one of the two"},
		{"registry: {}", "b.yaml:3: registry: the database is missing: add sqlite, for one broker, or postgres"},
		{"registry: {sqlite: {}}", "b.yaml:3: registry.sqlite.file: missing; it is required: the file of the database"},
		{"registry: {postgres: {}}", "b.yaml:3: registry.postgres.url: missing; it is required: the URL of the database, such as postgres://broker@db.example.org/secretbroker"},
		{"registry: {sqlite: {file: a}, postgres: {url: 'postgres:///x?host=/s'}}", "b.yaml:3: registry.postgres: there is one database, sqlite or postgres; remove one of the two"},
		{"registry: {postgres: {url: 'postgres://u:hunter2@db/x'}}", "b.yaml:3: registry.postgres.url: the URL contains a password; put it into a file and set password_file to its path"},
		{"registry: {postgres: {url: 'postgres://u@db/x?sslmode=prefer'}}", "b.yaml:3: registry.postgres.url: a connection to a database on another host requires sslmode=verify-full, which is the default if sslmode is not set"},
		{"registry: {sqlite: {file: a}, files: ['']}", "b.yaml:3: registry.files[0]: there is no value; add a value or remove the setting"},
		{"registry: {sqlite: {file: a}, max_integrations: 0}", "b.yaml:3: registry.max_integrations: expected 1 to 100000"},
		{"registry: {sqlite: {file: a}, max_outage: 0s}", "b.yaml:3: registry.max_outage: expected 1s to 24h"},
		{"registry: {sqlite: {file: a}, usage_retention: 1m}", "b.yaml:3: registry.usage_retention: expected 1h to 87840h"},
	} {
		if _, err := Parse("b.yaml", []byte(withoutIntegrations+tt.text+"\n")); err == nil || err.Error() != tt.want {
			t.Errorf("%s:\n got %v\nwant %s", tt.text, err, tt.want)
		}
	}
}
