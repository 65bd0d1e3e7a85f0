package config

import (
	"reflect"

	"github.com/secretbroker/secretbroker/internal/placement"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// Schema returns a JSON Schema of secretbroker.yaml, for editors. It describes the names and
// types of all settings, which of them are required, and the values of those with a list of
// values. Load checks more.
func Schema() ([]byte, error) {
	s := strictyaml.SchemaOf(reflect.TypeFor[Config]())
	s.RequireOneOf("tls", "spiffe")
	s.Require("registry", "audit")
	for section, required := range map[string][]string{
		"tls":                 {"cert_file", "key_file", "client_ca_file"},
		"spiffe":              {"socket", "trust_domain"},
		"registry.directory":  {"path"},
		"registry.sqlite":     {"file"},
		"registry.postgres":   {"url"},
		"registry.seal":       {"key_file"},
		"audit":               {"file"},
		"audit.copies[]":      {"syslog"},
		"placement.callers[]": {"principals", "cloud"},
		"tracing":             {"endpoint"},
		"events.sources[]":    {"file", "integrations"},
	} {
		s.At(section).Require(required...)
	}
	s.At("registry").RequireOneOf("directory", "sqlite", "postgres")
	s.At("audit.sync")["enum"] = []string{AuditSyncBatch, AuditSyncNone}
	s.At("placement.same")["enum"] = []placement.Same{placement.SameCloud, placement.SameRegion}
	s.At("placement.kinds[]")["enum"] = secret.Kinds()
	for _, r := range (&Limits{}).ranges() {
		limit := s.At("limits." + r.name)
		limit["minimum"], limit["maximum"] = r.least, r.most
	}
	return s.Encode("The configuration of secretbroker, secretbroker.yaml")
}
