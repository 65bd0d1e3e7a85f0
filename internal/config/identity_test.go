package config

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLoadSPIFFE(t *testing.T) {
	c, err := Load(filepath.Join("testdata", "spiffe.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(SPIFFE{Socket: "unix:///run/spire/agent.sock", TrustDomain: "example.org"}, c.SPIFFE); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(TLS{}, c.TLS); diff != "" {
		t.Error(diff)
	}
}

// TestOneIdentity: the certificate comes from exactly one complete source.
func TestOneIdentity(t *testing.T) {
	const (
		rest      = "\nregistry: {directory: {path: d}}\naudit: {file: e}\n"
		files     = "cert_file: a, key_file: b, client_ca_file: c"
		both      = "tls: the certificate comes from files (tls) or from the Workload API (spiffe); remove one of the two sections"
		noSocket  = "spiffe.socket: missing; it is required: the address of the SPIFFE Workload API, such as unix:///run/spire/agent.sock"
		noDomain  = "spiffe.trust_domain: missing; it is required: the broker's trust domain, such as example.org"
		badSocket = "spiffe.socket: expected the address of a Unix socket, such as unix:///run/spire/agent.sock"
		noName    = "expected the name of a SPIFFE trust domain, such as example.org"
	)
	tests := []struct{ name, data, want string }{
		{"both", "spiffe: {socket: unix:///a, trust_domain: example.org}\ntls: {" + files + "}" + rest, "b.yaml:2: " + both},
		{"both, one of them empty", "spiffe: {socket: unix:///a, trust_domain: example.org}\ntls:" + rest, "b.yaml:2: " + both},
		{"both, halves", "spiffe: {socket: unix:///a}\ntls: {cert_file: a}" + rest, "b.yaml:1: " + noDomain + "\nb.yaml:2: " + both},
		{"a pin in addition", "spiffe: {socket: unix:///a, trust_domain: example.org}\ntls: {trust_domain: example.org}" + rest, "b.yaml:2: " + both},
		{"no trust domain", "spiffe: {socket: unix:///a}" + rest, "b.yaml:1: " + noDomain},
		{"no socket", "spiffe: {trust_domain: example.org}" + rest, "b.yaml:1: " + noSocket},
		{"empty section", "spiffe:" + rest, "b.yaml:1: " + noSocket + "\nb.yaml:1: " + noDomain},
		{"a path", "spiffe: {socket: /run/a, trust_domain: example.org}" + rest, "b.yaml:1: " + badSocket},
		{"a relative path", "spiffe: {socket: unix:a, trust_domain: example.org}" + rest, "b.yaml:1: " + badSocket},
		{"a host", "spiffe: {socket: unix://a/b, trust_domain: example.org}" + rest, "b.yaml:1: " + badSocket},
		{"TCP", "spiffe: {socket: tcp://127.0.0.1:1, trust_domain: example.org}" + rest, "b.yaml:1: " + badSocket},
		{"an ID as trust domain", "spiffe: {socket: unix:///a, trust_domain: spiffe://example.org}" + rest, "b.yaml:1: spiffe.trust_domain: " + noName},
		{"an ID as pin", "tls: {" + files + ", trust_domain: spiffe://example.org/a}" + rest, "b.yaml:1: tls.trust_domain: " + noName},
		{"a pin in capitals", "tls: {" + files + ", trust_domain: Example.org}" + rest, "b.yaml:1: tls.trust_domain: " + noName},
		{"too few handshakes", "limits: {max_handshakes: 15}" + tail, "b.yaml:1: limits.max_handshakes: expected 16 to 100000"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Parse("b.yaml", []byte(tt.data))
			if err == nil {
				t.Fatalf("accepted: %+v", c)
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Error(diff)
			}
		})
	}
	for name, data := range map[string]string{
		"empty CRL name":     "tls: {" + files + ", crl_files: [\"\"]}" + rest,
		"empty trust domain": "tls: {" + files + ", trust_domain: \"\"}" + rest,
		"CRL is text":        "tls: {" + files + ", crl_files: a.crl}" + rest,
	} {
		if _, err := Parse("b.yaml", []byte(data)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
