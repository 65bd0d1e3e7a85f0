package config

import (
	"strings"
	"testing"
)

func TestTracing(t *testing.T) {
	const missing = "b.yaml:1: tracing.endpoint: missing; it is required: the address of a collector that accepts OTLP over gRPC, such as collector.example.org:4317"
	const notOne = "b.yaml:1: tracing.endpoint: expected host:port of a collector, without a scheme, such as collector.example.org:4317"
	for section, want := range map[string]string{
		"{endpoint: 'collector:4317'}":                                  "",
		"{endpoint: '127.0.0.1:4317', insecure: true}":                  "",
		"{endpoint: '[::1]:4317', insecure: true, service_name: a.b/c}": "",
		"{endpoint: 'c:1', ca_file: a, cert_file: b, key_file: c}":      "",
		"{endpoint: 'c:1', cert_file: b, key_file: c, insecure: false}": "",
		"{}":                                            missing,
		"{insecure: true}":                              missing,
		"{endpoint: 'https://collector:4317'}":          notOne,
		"{endpoint: collector}":                         notOne,
		"{endpoint: 'collector:otlp'}":                  notOne,
		"{endpoint: 'collector:0'}":                     notOne,
		"{endpoint: ':4317'}":                           notOne,
		"{endpoint: 'user@collector:4317'}":             notOne,
		"{endpoint: 'a/b:4317'}":                        notOne,
		"{endpoint: 'c:1', cert_file: b}":               "b.yaml:1: tracing: cert_file and key_file go together",
		"{endpoint: 'c:1', key_file: b}":                "b.yaml:1: tracing: cert_file and key_file go together",
		"{endpoint: 'c:1', insecure: true, ca_file: b}": "b.yaml:1: tracing.insecure: a plaintext connection does not use ca_file, cert_file and key_file; remove them or insecure",
		"{endpoint: 'c:1', service_name: 'a b'}":        "b.yaml:1: tracing.service_name: expected 1 to 255 printable ASCII characters without spaces",
		"{endpoint: 'c:1', service_name: \"a\\u00e9\"}": "b.yaml:1: tracing.service_name: expected 1 to 255 printable ASCII characters without spaces",
		"{endpoint: 'c:1', max_calls_per_second: 0}":    "b.yaml:1: tracing.max_calls_per_second: expected 1 to 10000",
		"{endpoint: 'c:1', tls: {insecure: true}}":      `b.yaml:1: tracing: unknown setting "tls"`,
		"{endpoint: 'c:1', headers: {a: b}}":            `b.yaml:1: tracing: unknown setting "headers"`,
	} {
		_, err := Parse("b.yaml", []byte("tracing: "+section+tail))
		if want == "" {
			if err != nil {
				t.Errorf("%s: %v", section, err)
			}
			continue
		}
		if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s\ngot  %v\nwant %s", section, err, want)
		}
	}
}
