package config

import (
	"time"

	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore/pgurl"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// Registry keeps integrations in a database, in which they are managed while the broker
// runs. It replaces Integrations: exactly one of the two is set.
type Registry struct {
	// SQLite is for one broker, Postgres for several; exactly one of them is set.
	SQLite   SQLite   `yaml:"sqlite"`
	Postgres Postgres `yaml:"postgres"`
	// KeyFile is a file with the keys that seal credentials, see secretbroker key create; empty
	// if the database keeps no credentials.
	KeyFile string `yaml:"key_file"`
	// Files are the files, and directories of files, that integrations may refer to.
	Files []string `yaml:"files"`
	// MaxIntegrations is the maximum number of integrations, 1 to 100,000.
	MaxIntegrations int `yaml:"max_integrations"`
	// MaxOutage is the time for which the broker continues with its last state if it
	// cannot reach the database; 1 s to 24 h.
	MaxOutage strictyaml.Duration `yaml:"max_outage"`
	// UsageRetention is the time for which a usage record is kept after the last use; 1 h
	// to 10 years.
	UsageRetention strictyaml.Duration `yaml:"usage_retention"`
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

const maxUsageRetention = 10 * 366 * 24 * time.Hour

func defaultRegistry() Registry {
	return Registry{
		MaxIntegrations: registry.DefaultMaxIntegrations,
		MaxOutage:       strictyaml.Duration(registry.DefaultMaxOutage),
		UsageRetention:  strictyaml.Duration(registry.DefaultUsageRetention),
	}
}

// validateIntegrations checks that integrations come from exactly one source.
func (c *Config) validateIntegrations(doc *strictyaml.Document) {
	switch has := doc.Has("registry"); {
	case has && doc.Has("integrations"):
		doc.Fault("registry", "integrations come from files (integrations) or from a database (registry); remove one of the two")
	case !has:
		required(doc, "integrations", "the directory of the integrations' files")
		return
	}
	r := &c.Registry
	switch lite, postgres := doc.Has("registry.sqlite"), doc.Has("registry.postgres"); {
	case lite && postgres:
		doc.Fault("registry.postgres", "there is one database, sqlite or postgres; remove one of the two")
	case lite:
		required(doc, "registry.sqlite.file", "the file of the database")
	case postgres:
		required(doc, "registry.postgres.url", "the URL of the database, such as postgres://broker@db.example.org/secretbroker")
		if fault := pgurl.Check(r.Postgres.URL); doc.Has("registry.postgres.url") && fault != "" {
			doc.Fault("registry.postgres.url", "%s", fault)
		}
	default:
		doc.Fault("registry", "the database is missing: add sqlite, for one broker, or postgres")
	}
	if r.MaxIntegrations < 1 || r.MaxIntegrations > 100_000 {
		doc.Fault("registry.max_integrations", "expected 1 to 100000")
	}
	if d := time.Duration(r.MaxOutage); d < time.Second || d > 24*time.Hour {
		doc.Fault("registry.max_outage", "expected 1s to 24h")
	}
	if d := time.Duration(r.UsageRetention); d < time.Hour || d > maxUsageRetention {
		doc.Fault("registry.usage_retention", "expected 1h to 87840h")
	}
}

// paths returns the settings that name files.
func (r *Registry) paths() []*string {
	paths := []*string{&r.SQLite.File, &r.Postgres.PasswordFile, &r.KeyFile}
	for i := range r.Files {
		paths = append(paths, &r.Files[i])
	}
	return paths
}
