//go:build unix

package app

import (
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
)

// TestValidateFiles: validate reports every file that the broker or its clients could not
// use, together with the faults of the settings, each with its line.
func TestValidateFiles(t *testing.T) {
	ca := trusttest.NewCA(t, "servers")
	server := func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} }
	clientOnly := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }
	const (
		notServer = "b.yaml:2: tls.cert_file: the certificate is not for servers"
		noName    = "b.yaml:2: tls.cert_file: the certificate has no DNS name and no IP address"
	)
	for _, tt := range []struct {
		name    string
		issue   func(*x509.Certificate)
		leafCA  bool
		keyMode os.FileMode
		audit   string
		more    string
		want    []string
	}{
		{name: "valid", issue: server, keyMode: 0o600, audit: "audit.jsonl"},
		{name: "clientauth-only", issue: clientOnly, keyMode: 0o644, leafCA: true, audit: "missing/audit.jsonl", more: "listne: x\n", want: []string{
			notServer, noName, "b.yaml:3: tls.key_file: read the server certificate's key: ", "b.yaml:4: tls.client_ca_file: certificate 1 is not the certificate of an authority",
			"b.yaml:5: audit.file: the directory ", `b.yaml:7: unknown setting "listne"`,
		}},
		{name: "serverAuth without a name", issue: func(*x509.Certificate) {}, keyMode: 0o600, audit: "audit.jsonl", want: []string{noName}},
		{name: "clientAuth with a name", issue: func(c *x509.Certificate) { server(c); clientOnly(c) }, keyMode: 0o600, audit: "audit.jsonl", want: []string{notServer}},
		{name: "key for others", issue: server, keyMode: 0o644, audit: "audit.jsonl", want: []string{"b.yaml:3: tls.key_file: "}},
		{name: "leaf as authority", issue: server, leafCA: true, keyMode: 0o600, audit: "audit.jsonl", want: []string{"b.yaml:4: tls.client_ca_file: "}},
		{name: "audit log below a file", issue: server, keyMode: 0o600, audit: "server.pem/audit.jsonl", want: []string{"b.yaml:5: audit.file: "}},
		{name: "a missing key of the chain", issue: server, keyMode: 0o600, audit: "audit.jsonl, key_file: no.key", want: []string{"b.yaml:5: audit.key_file: "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := func(name string) string { return filepath.Join(dir, name) }
			trusttest.PutPair(t, ca.Issue(tt.issue), path("server.pem"), path("server.key"))
			authority := ca.PEM()
			if tt.leafCA {
				authority = trusttest.CertPEM(ca.Client("spiffe://example.org/a"))
			}
			trusttest.Put(t, path("ca.pem"), authority)
			text := "tls:\n  cert_file: server.pem\n  key_file: server.key\n  client_ca_file: ca.pem\naudit: {file: " + tt.audit +
				"}\nregistry: {directory: {path: integrations}}\n" + tt.more
			if err := os.Mkdir(path("integrations"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path("b.yaml"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path("server.key"), tt.keyMode); err != nil {
				t.Fatal(err)
			}
			code, _, stderr := command(t, "validate", "--config", path("b.yaml"))
			if len(tt.want) == 0 {
				if code != exitOK {
					t.Errorf("%d %s", code, stderr)
				}
				return
			}
			if code != exitUsage || strings.Count(stderr, "b.yaml:") != len(tt.want) {
				t.Errorf("exit code %d, want %d faults:\n%s", code, len(tt.want), stderr)
			}
			for _, want := range tt.want {
				if !strings.Contains(stderr, want) {
					t.Errorf("missing %q:\n%s", want, stderr)
				}
			}
		})
	}
}
