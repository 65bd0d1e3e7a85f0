package config

import (
	"net"
	"strconv"
	"strings"

	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// Tracing configures the export of traces that callers request. Without this section there
// are no traces.
type Tracing struct {
	// Endpoint is the collector's OTLP/gRPC address, host:port; empty for no tracing.
	Endpoint string `yaml:"endpoint"`
	// CAFile is a PEM file with the collector's authorities; empty for the system's.
	CAFile string `yaml:"ca_file"`
	// CertFile and KeyFile are PEM files with the client certificate for the collector;
	// both or neither.
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
	// Insecure uses plaintext. It cannot be combined with the files.
	Insecure bool `yaml:"insecure"`
	// ServiceName is the name of the broker in traces.
	ServiceName string `yaml:"service_name"`
	// MaxCallsPerSecond is the maximum number of traced calls per second, 1 to 10,000.
	MaxCallsPerSecond int `yaml:"max_calls_per_second"`
}

func defaultTracing() Tracing {
	return Tracing{ServiceName: "secretbroker", MaxCallsPerSecond: 100}
}

// maxServiceName is the maximum length of the service name, in bytes.
const maxServiceName = 255

func (t *Tracing) validate(doc *strictyaml.Document) {
	if !doc.Has("tracing") {
		return
	}
	required(doc, "tracing.endpoint", "the address of a collector that accepts OTLP over gRPC, such as collector.example.org:4317")
	if doc.Has("tracing.endpoint") && !isHostPort(t.Endpoint) {
		doc.Fault("tracing.endpoint", "expected host:port of a collector, without a scheme, such as collector.example.org:4317")
	}
	if (t.CertFile == "") != (t.KeyFile == "") {
		doc.Fault("tracing", "cert_file and key_file go together")
	}
	if t.Insecure && (t.CAFile != "" || t.CertFile != "" || t.KeyFile != "") {
		doc.Fault("tracing.insecure", "a plaintext connection does not use ca_file, cert_file and key_file; remove them or insecure")
	}
	if t.ServiceName == "" || len(t.ServiceName) > maxServiceName || strings.ContainsFunc(t.ServiceName, func(r rune) bool { return r <= ' ' || r > '~' }) {
		doc.Fault("tracing.service_name", "expected 1 to %d printable ASCII characters without spaces", maxServiceName)
	}
	if t.MaxCallsPerSecond < 1 || t.MaxCallsPerSecond > 10_000 {
		doc.Fault("tracing.max_calls_per_second", "expected 1 to 10000")
	}
}

// isHostPort accepts a name or an IP address, and a number from 1 to 65535.
func isHostPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return false
	}
	if net.ParseIP(host) != nil {
		return true
	}
	return !strings.ContainsFunc(host, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.' && r != '-' && r != '_'
	})
}
