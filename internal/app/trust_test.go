package app

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/devmode"
	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
)

const devTLS = "tls: {cert_file: server.pem, key_file: server-key.pem, client_ca_file: ca.pem}"

// worker writes the files of a client and returns a client of the broker.
func (b *broker) worker(t *testing.T, ca *trusttest.CA, cert *tls.Certificate) *client.Client {
	t.Helper()
	dir := t.TempDir()
	roots, certFile, keyFile := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	trusttest.Put(t, roots, ca.PEM())
	trusttest.PutPair(t, cert, certFile, keyFile)
	c, err := client.New(client.Config{Addrs: []string{b.addr}, CAFile: roots, CertFile: certFile, KeyFile: keyFile, MaxAttempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func read1(t *testing.T, c *client.Client) error {
	t.Helper()
	_, err := c.Resolve(t.Context(), client.ResolveRequest{IntegrationID: devmode.IntegrationID, Configs: map[string]string{"p": devmode.VaultURL + "::postgres-password"}})
	return err
}

// TestTrustReload: SIGHUP makes the broker use a new certificate and a new CRL. An invalid
// file changes nothing, and /readyz and the metrics report it.
func TestTrustReload(t *testing.T) {
	ca := trusttest.NewCA(t, "clients")
	files := ca.Write(t.TempDir())
	b := newBroker(t, func(env *devmode.Environment) error {
		return edit(env.ConfigFile, devTLS, fmt.Sprintf("tls: {cert_file: %s, key_file: %s, client_ca_file: %s, crl_files: [%s], trust_domain: example.org}",
			files.Cert, files.Key, files.ClientCA, files.CRL))
	})
	first, second := ca.Client(b.Worker.ID), ca.Client(b.Worker.ID)
	one, two := b.worker(t, ca, first), b.worker(t, ca, second)
	for _, c := range []*client.Client{one, two} {
		if err := read1(t, c); err != nil {
			t.Fatal(err)
		}
	}
	if page := b.get(t, "/readyz"); strings.Contains(page, `"tls"`) {
		t.Errorf("readyz: %s", page)
	}
	if page := b.get(t, "/metrics"); !strings.Contains(page, `secretbroker_tls_certificate_expiration_timestamp_seconds{which="server"} 1.`) ||
		!strings.Contains(page, "secretbroker_tls_reload_failures_total 0") {
		t.Errorf("metrics: %s", page)
	}

	trusttest.Put(t, files.Cert, []byte("half"))
	trusttest.Put(t, files.CRL, ca.CRL(nil, first.Leaf))
	b.hangups <- syscall.SIGHUP
	asynctest.Eventually(t, "the revoked client is cut off", func() bool { return read1(t, one) != nil })
	if err := read1(t, two); err != nil {
		t.Errorf("another client: %v", err)
	}
	if page := b.get(t, "/readyz"); !strings.Contains(page, `"component":"tls"`) || !strings.Contains(page, "server.pem") || !strings.Contains(page, " 200 ") {
		t.Errorf("readyz: %s", page)
	}
	if page := b.get(t, "/metrics"); strings.Contains(page, "secretbroker_tls_reload_failures_total 0") || !strings.Contains(page, "secretbroker_tls_connections_cut_total 1") {
		t.Errorf("metrics: %s", page)
	}

	renewed := ca.Server()
	trusttest.Put(t, files.Key, trusttest.KeyPEM(t, renewed))
	trusttest.Put(t, files.Cert, trusttest.CertPEM(renewed))
	b.hangups <- syscall.SIGHUP
	asynctest.Eventually(t, "the new certificate is shown", func() bool {
		conn, err := tls.Dial("tcp", b.addr, &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{*second}, NextProtos: []string{"h2"}})
		if err != nil {
			return false
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].Equal(renewed.Leaf)
	})
	asynctest.Eventually(t, "the problem is over", func() bool { return !strings.Contains(b.get(t, "/readyz"), `"tls"`) })
}

// TestSPIFFE: a broker that gets its identity from the Workload API.
func TestSPIFFE(t *testing.T) {
	ca := trusttest.NewCA(t, "example.org")
	agent := trusttest.NewWorkloadAPI(t)
	identity := func() *tls.Certificate {
		return ca.Issue(func(c *x509.Certificate) {
			c.URIs, c.IPAddresses = ca.Client("spiffe://example.org/broker").Leaf.URIs, ca.Server().Leaf.IPAddresses
		})
	}
	agent.Set(trusttest.Identity(t, ca, identity()))
	b := newBroker(t, func(env *devmode.Environment) error {
		return edit(env.ConfigFile, devTLS, "spiffe: {socket: "+agent.Socket+", trust_domain: example.org}")
	})
	worker := b.worker(t, ca, ca.Client(b.Worker.ID))
	if err := read1(t, worker); err != nil {
		t.Fatal(err)
	}
	byDNS := b.worker(t, ca, ca.Issue(func(c *x509.Certificate) { c.DNSNames = []string{"worker.example.org"} }))
	if err := read1(t, byDNS); err == nil || !strings.Contains(err.Error(), "no SPIFFE ID") {
		t.Errorf("a client with a DNS name: %v", err)
	}
	// Replace the authority of the trust domain: without a restart, clients of the old one
	// are refused.
	next := trusttest.NewCA(t, "example.org")
	agent.Set(trusttest.Identity(t, next, identity()))
	asynctest.Eventually(t, "the old authority's client is cut off", func() bool { return read1(t, worker) != nil })
	agent.Stop()
	asynctest.Eventually(t, "the silent agent is a problem", func() bool { return strings.Contains(b.get(t, "/readyz"), agent.Socket) })
}

// TestValidateTLS: "secretbroker validate" reports invalid certificates and CRLs.
func TestValidateTLS(t *testing.T) {
	ca := trusttest.NewCA(t, "clients")
	dir := t.TempDir()
	files := ca.Write(dir)
	if err := os.Mkdir(filepath.Join(dir, "integrations"), 0o700); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "secretbroker.yaml")
	validate := func() error {
		cmd := newValidateCommand()
		cmd.SetArgs([]string{"--config", config})
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		cmd.SetOut(new(strings.Builder))
		return cmd.Execute()
	}
	const rest = "\nregistry: {directory: {path: integrations}}\naudit: {file: stdout}\n"
	const names = "tls: {cert_file: server.pem, key_file: server-key.pem, client_ca_file: ca.pem, crl_files: [ca.crl]}" + rest
	trusttest.Put(t, config, []byte(names))
	if err := validate(); err != nil {
		t.Error(err)
	}
	other := trusttest.NewCA(t, "another")
	for what, spoil := range map[string]func(){
		"truncated or damaged": func() { trusttest.Put(t, files.Cert, []byte("-----BEGIN CERTIFICATE-----\nAAAA")) },
		"is not a CRL":         func() { trusttest.Put(t, files.CRL, []byte("x")) },
		"not in the client":    func() { trusttest.Put(t, files.CRL, other.CRL(nil)) },
		"there is no CRL":      func() { trusttest.Put(t, files.ClientCA, trusttest.PEM("CERTIFICATE", ca.Cert.Raw, other.Cert.Raw)) },
		"is not a regular":     func() { _ = os.Remove(files.Key); _ = os.Mkdir(files.Key, 0o700) },
		"should have been re": func() {
			trusttest.Put(t, files.CRL, ca.CRL(func(l *x509.RevocationList) { l.NextUpdate = time.Now().Add(-time.Second) }))
		},
	} {
		_ = os.Remove(files.Key)
		ca.Write(dir)
		spoil()
		if err := validate(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("got %v, want %q", err, what)
		}
	}
	// The Workload API is not contacted.
	trusttest.Put(t, config, []byte("spiffe: {socket: unix:///no/such.sock, trust_domain: example.org}"+rest))
	if err := validate(); err != nil {
		t.Error(err)
	}
}
