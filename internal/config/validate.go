package config

import (
	"net"
	"strconv"
	"strings"
	"time"

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
