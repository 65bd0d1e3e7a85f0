package config

import (
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/secretbroker/secretbroker/internal/audit/syslog"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

func (c *Config) validate(doc *strictyaml.Document) {
	address(doc, "listen", c.Listen)
	address(doc, "admin_listen", c.AdminListen)
	if c.Listen == c.AdminListen && !strings.HasSuffix(c.Listen, ":0") {
		doc.Fault("admin_listen", "the same address as listen; use another port")
	}
	c.validateIdentity(doc)
	c.Registry.validate(doc)
	c.Usage.validate(doc)
	c.Validation.validate(doc)
	required(doc, "audit.file", `the file that audit records are appended to, or "stdout"`)
	if ttl := time.Duration(c.Cache.TTL); ttl < MinTTL || ttl > MaxTTL {
		doc.Fault("cache.ttl", "expected 1s to 24h")
	}
	if c.Cache.MaxBytes < MinMaxBytes {
		doc.Fault("cache.max_bytes", "expected at least 1MiB")
	}
	if c.Memory.Limit != 0 && c.Memory.Limit < MinMemory {
		doc.Fault("memory.limit", "expected at least 64MiB, or 0 for no limit")
	}
	c.Roles.validate(doc)
	c.Placement.validate(doc)
	c.Audit.validate(doc)
	c.Limits.validate(doc)
	c.Watch.validate(doc)
	c.Events.validate(doc)
	c.Tracing.validate(doc)
	if d := time.Duration(c.Shutdown.DrainDelay); d < 0 || d > MaxShutdown {
		doc.Fault("shutdown.drain_delay", "expected 0s to 5m")
	}
	if d := time.Duration(c.Shutdown.Timeout); d < time.Second || d > MaxShutdown {
		doc.Fault("shutdown.timeout", "expected 1s to 5m")
	}
}

// validateIdentity checks that the server's identity and the client CAs come from exactly
// one complete source.
func (c *Config) validateIdentity(doc *strictyaml.Document) {
	if !doc.Has("spiffe") {
		required(doc, "tls.cert_file", "the PEM file with the server's certificate chain")
		required(doc, "tls.key_file", "the PEM file with the server's private key")
		required(doc, "tls.client_ca_file", "the PEM file with the authorities of the client certificates")
		for i, name := range c.TLS.CRLFiles {
			if name == "" {
				doc.Fault(strictyaml.Index("tls.crl_files", i), "expected the name of a file")
			}
		}
		if doc.Has("tls.crl_dir") && c.TLS.CRLDir == "" {
			doc.Fault("tls.crl_dir", "expected the name of a directory")
		}
		if doc.Has("tls.trust_domain") {
			trustDomain(doc, "tls.trust_domain", c.TLS.TrustDomain)
		}
		return
	}
	if doc.Has("tls") {
		doc.Fault("tls", "the certificate comes from files (tls) or from the Workload API (spiffe); remove one of the two sections")
	}
	required(doc, "spiffe.socket", "the address of the SPIFFE Workload API, such as unix:///run/spire/agent.sock")
	required(doc, "spiffe.trust_domain", "the broker's trust domain, such as example.org")
	if path, ok := strings.CutPrefix(c.SPIFFE.Socket, "unix://"); doc.Has("spiffe.socket") && (!ok || !strings.HasPrefix(path, "/") || strings.ContainsAny(path, "?#%")) {
		doc.Fault("spiffe.socket", "expected the address of a Unix socket, such as unix:///run/spire/agent.sock")
	}
	if doc.Has("spiffe.trust_domain") {
		trustDomain(doc, "spiffe.trust_domain", c.SPIFFE.TrustDomain)
	}
}

func trustDomain(doc *strictyaml.Document, path, name string) {
	if td, err := spiffeid.TrustDomainFromString(name); err != nil || td.Name() != name {
		doc.Fault(path, "expected the name of a SPIFFE trust domain, such as example.org")
	}
}

func (a *Audit) validate(doc *strictyaml.Document) {
	if a.Sync != AuditSyncBatch && a.Sync != AuditSyncNone {
		doc.Fault("audit.sync", "expected batch or none")
	}
	for i, c := range a.Copies {
		path := strictyaml.Index("audit.copies", i)
		to, err := syslog.Parse(c.Syslog)
		switch {
		case !doc.Has(path + ".syslog"):
			doc.Fault(path+".syslog", "missing; it is required: the URL of a collector, such as tls://HOST:6514")
		case err != nil:
			doc.Fault(path+".syslog", "%v", err)
		case to.TLS == nil && (c.CAFile != "" || c.CertFile != "" || c.KeyFile != ""):
			doc.Fault(path, "ca_file, cert_file and key_file go with tls:// only")
		case c.Required && to.Network == "udp":
			doc.Fault(path+".required", "udp does not report lost records; use tcp, tls or unix")
		}
		if (c.CertFile == "") != (c.KeyFile == "") {
			doc.Fault(path, "cert_file and key_file go together")
		}
	}
}

// limitRange is the range of one setting of limits.
type limitRange struct {
	name            string
	is, least, most int64
}

func (l *Limits) ranges() []limitRange {
	return []limitRange{
		{"max_request_bytes", int64(l.MaxRequestBytes), 64 << 10, 16 << 20},
		{"max_configs", int64(l.MaxConfigs), 1, 100_000},
		{"max_references", int64(l.MaxReferences), 1, 10_000},
		{"max_secrets", int64(l.MaxSecrets), 1, 1000},
		{"max_reference_bytes", int64(l.MaxReferenceBytes), 64, 8192},
		{"max_key_bytes", int64(l.MaxKeyBytes), 1, 8192},
		{"max_document_bytes", int64(l.MaxDocumentBytes), 1 << 10, 1 << 20},
		{"max_streams_per_connection", int64(l.MaxStreamsPerConnection), 1, 10_000},
		{"max_connections_per_principal", int64(l.MaxConnectionsPerPrincipal), 1, 100_000},
		{"max_calls_per_second_per_principal", int64(l.MaxCallsPerSecondPerPrincipal), 1, 1_000_000},
		{"max_concurrent_calls_per_principal", int64(l.MaxConcurrentCallsPerPrincipal), 1, 1_000_000},
		{"max_concurrent_calls", int64(l.MaxConcurrentCalls), 1, 10_000_000},
		{"max_handshakes", int64(l.MaxHandshakes), 16, 100_000},
	}
}

func (l *Limits) validate(doc *strictyaml.Document) {
	for _, b := range l.ranges() {
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

// address accepts the addresses of net.Listen except for named ports. Port 0 selects any
// free port.
func address(doc *strictyaml.Document, path, addr string) {
	host, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil || strings.ContainsAny(host, " /@") {
		doc.Fault(path, `expected an address to listen on, host:port, such as "127.0.0.1:8443" or ":8443"`)
	}
}
