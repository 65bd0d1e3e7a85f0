package config

import (
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore/pgurl"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// Registry is where the integrations are: exactly one of Directory, SQLite and Postgres is
// set. The other settings apply to the databases only, in which integrations are managed
// while the broker runs.
type Registry struct {
	// Directory has one file for each integration.
	Directory Directory `yaml:"directory"`
	// SQLite is for one broker, Postgres for several.
	SQLite   SQLite   `yaml:"sqlite"`
	Postgres Postgres `yaml:"postgres"`
	// Seal configures how credentials in the database are sealed. Without it, the database
	// stores none.
	Seal Seal `yaml:"seal"`
	// AllowedFiles are the files, and directories of files, that integrations may refer to.
	AllowedFiles []string `yaml:"allowed_files"`
	// MaxIntegrations is the maximum number of integrations, 1 to 100,000.
	MaxIntegrations int `yaml:"max_integrations"`
	// MaxOutage is the time for which the broker continues with its last state if it
	// cannot reach the database; 1 s to 24 h.
	MaxOutage strictyaml.Duration `yaml:"max_outage"`
}

// Directory is a directory of integrations' files.
type Directory struct {
	Path string `yaml:"path"`
}

// SQLite is a database in a file.
type SQLite struct {
	File string `yaml:"file"`
}

// Postgres is a database of a PostgreSQL server.
type Postgres struct {
	// URL is a libpq connection URI without a password.
	URL string `yaml:"url"`
	// PasswordFile is a file with the password. The broker reads it for every connection.
	PasswordFile string `yaml:"password_file"`
}

// Seal configures the keys that seal credentials.
type Seal struct {
	// KeyFile is a file with the keys, see secretbroker seal create-key.
	KeyFile string `yaml:"key_file"`
}

func defaultRegistry() Registry {
	return Registry{
		MaxIntegrations: registry.DefaultMaxIntegrations,
		MaxOutage:       strictyaml.Duration(registry.DefaultMaxOutage),
	}
}

func (r *Registry) validate(doc *strictyaml.Document) {
	required(doc, "registry", "where the integrations are, such as {directory: {path: integrations/}}, or a database, sqlite or postgres")
	var sources []string
	for _, source := range []string{"directory", "sqlite", "postgres"} {
		if doc.Has("registry." + source) {
			sources = append(sources, source)
		}
	}
	switch {
	case len(sources) > 1:
		doc.Fault("registry."+sources[1], "integrations are in one place, and there are %s; remove all but one", strings.Join(sources, " and "))
	case len(sources) == 0 && doc.Has("registry"):
		doc.Fault("registry", "the place of the integrations is missing: add directory, or sqlite, a database for one broker, or postgres")
	case len(sources) == 1 && sources[0] == "directory":
		for _, name := range []string{"seal", "allowed_files", "max_integrations", "max_outage"} {
			if doc.Has("registry." + name) {
				doc.Fault("registry."+name, "applies to a database (sqlite or postgres) only; remove the setting")
			}
		}
	}
	if doc.Has("registry.directory") {
		required(doc, "registry.directory.path", "the directory of the integrations' files")
	}
	if doc.Has("registry.sqlite") {
		required(doc, "registry.sqlite.file", "the file of the database")
	}
	if doc.Has("registry.postgres") {
		required(doc, "registry.postgres.url", "the URL of the database, such as postgres://broker@db.example.org/secretbroker")
	}
	if fault := pgurl.Check(r.Postgres.URL); doc.Has("registry.postgres.url") && fault != "" {
		doc.Fault("registry.postgres.url", "%s", fault)
	}
	if doc.Has("registry.seal") {
		required(doc, "registry.seal.key_file", "the file with the keys; secretbroker seal create-key makes it")
	}
	if r.MaxIntegrations < 1 || r.MaxIntegrations > 100_000 {
		doc.Fault("registry.max_integrations", "expected 1 to 100000")
	}
	if d := time.Duration(r.MaxOutage); d < time.Second || d > day {
		doc.Fault("registry.max_outage", "expected 1s to 24h")
	}
}

// paths returns the settings that name files.
func (r *Registry) paths() []*string {
	paths := []*string{&r.Directory.Path, &r.SQLite.File, &r.Postgres.PasswordFile, &r.Seal.KeyFile}
	for i := range r.AllowedFiles {
		paths = append(paths, &r.AllowedFiles[i])
	}
	return paths
}
