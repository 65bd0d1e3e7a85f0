package config

import (
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

func (c *Config) validate(doc *strictyaml.Document) {
	address(doc, "listen", c.Listen)
	address(doc, "admin_listen", c.AdminListen)
	if c.Listen == c.AdminListen && !strings.HasSuffix(c.Listen, ":0") {
		doc.Fault("admin_listen", "the same address as listen; give it a port of its own")
	}
	required(doc, "tls.cert_file", "the PEM file with the server's certificate chain")
	required(doc, "tls.key_file", "the PEM file with the server's private key")
	required(doc, "tls.client_ca_file", "the PEM file with the authorities of the client certificates")
	required(doc, "integrations", "the directory of the integrations' files")
	required(doc, "audit.file", `the file that audit records are appended to, or "stdout"`)
	if ttl := time.Duration(c.Cache.TTL); ttl < MinTTL || ttl > MaxTTL {
		doc.Fault("cache.ttl", "expected 1s to 24h")
	}
	if c.Cache.MaxBytes < MinMaxBytes {
		doc.Fault("cache.max_bytes", "expected at least 1MiB")
	}
	for i, pattern := range c.Roles.Auditor {
		if fault := authz.CheckPrincipalPattern(pattern); fault != "" {
			doc.Fault(strictyaml.Index("roles.auditor", i), "%s", fault)
		}
	}
	c.Limits.validate(doc)
}

func (l *Limits) validate(doc *strictyaml.Document) {
	for _, b := range []struct {
		name            string
		is, least, most int64
	}{
		{"max_request_bytes", int64(l.MaxRequestBytes), 64 << 10, 16 << 20},
		{"max_configs", int64(l.MaxConfigs), 1, 100_000},
		{"max_references", int64(l.MaxReferences), 1, 10_000},
		{"max_secrets", int64(l.MaxSecrets), 1, 1000},
		{"max_reference_bytes", int64(l.MaxReferenceBytes), 64, 8192},
		{"max_key_bytes", int64(l.MaxKeyBytes), 1, 8192},
		{"max_document_bytes", int64(l.MaxDocumentBytes), 1 << 10, 1 << 20},
		{"max_streams_per_connection", int64(l.MaxStreamsPerConnection), 1, 10_000},
		{"max_connections_per_principal", int64(l.MaxConnectionsPerPrincipal), 1, 100_000},
	} {
		if b.is < b.least || b.is > b.most {
			doc.Fault("limits."+b.name, "expected %d to %d", b.least, b.most)
		}
	}
}

func required(doc *strictyaml.Document, path, what string) {
	if !doc.Has(path) {
		doc.Fault(path, "missing; it is required: %s", what)
	}
}

// address accepts what net.Listen does, but for named ports; port 0 takes any
// free one.
func address(doc *strictyaml.Document, path, addr string) {
	host, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil || strings.ContainsAny(host, " /@") {
		doc.Fault(path, `expected an address to listen on, host:port, such as "127.0.0.1:8443" or ":8443"`)
	}
}
