package clienttls

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
)

// TestRenewal: each connection uses the current files. If they are invalid, it uses the older
// contents, and the problem is reported once.
func TestRenewal(t *testing.T) {
	ca, other := trusttest.NewCA(t, "one"), trusttest.NewCA(t, "other")
	dir := t.TempDir()
	cfg := Config{CAFile: filepath.Join(dir, "ca.pem"), CertFile: filepath.Join(dir, "tls.pem"), KeyFile: filepath.Join(dir, "key.pem")}
	put := func(cert *tls.Certificate) {
		trusttest.Put(t, cfg.CertFile, trusttest.CertPEM(cert))
		trusttest.Put(t, cfg.KeyFile, trusttest.KeyPEM(t, cert))
	}
	var told []string
	cfg.Changed = func(problem string) { told = append(told, problem) }
	first, second := ca.Client("spiffe://example.org/broker"), other.Client("spiffe://example.org/broker")
	put(first)
	trusttest.Put(t, cfg.CAFile, trusttest.PEM("CERTIFICATE", ca.Cert.Raw))
	f, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	expect := func(what string, cert *tls.Certificate, roots *trusttest.CA, problem string) {
		t.Helper()
		config, why := f.TLS(&tls.Config{MinVersion: tls.VersionTLS13, ServerName: "collector"})
		if config.MinVersion != tls.VersionTLS13 || config.ServerName != "collector" {
			t.Errorf("%s: the base is lost", what)
		}
		got, err := config.GetClientCertificate(nil)
		if err != nil || !slices.Equal(got.Certificate[0], cert.Certificate[0]) {
			t.Errorf("%s: another certificate, %v", what, err)
		}
		if !config.RootCAs.Equal(roots.Pool()) {
			t.Errorf("%s: other authorities", what)
		}
		if (why == "") != (problem == "") || !strings.Contains(why, problem) {
			t.Errorf("%s: problem %q", what, why)
		}
	}
	expect("at first", first, ca, "")
	put(second)
	expect("renewed", second, ca, "")
	trusttest.Put(t, cfg.KeyFile, trusttest.KeyPEM(t, first))
	trusttest.Put(t, cfg.CAFile, trusttest.PEM("CERTIFICATE", other.Cert.Raw))
	expect("half renewed", second, other, "key file")
	expect("still half renewed", second, other, "key file")
	put(first)
	expect("renewed again", first, other, "")
	if len(told) != 2 || told[0] == "" || told[1] != "" {
		t.Errorf("Changed was called with %q", told)
	}
}

// TestWithoutFiles: without files, the client trusts the system's authorities and has no
// certificate.
func TestWithoutFiles(t *testing.T) {
	f, err := Open(Config{})
	if err != nil {
		t.Fatal(err)
	}
	config, problem := f.TLS(&tls.Config{MinVersion: tls.VersionTLS13})
	if config.RootCAs != nil || config.GetClientCertificate != nil || problem != "" {
		t.Errorf("%v, %q", config, problem)
	}
}

// TestReadKey: ReadKey can be stricter about the key file.
func TestReadKey(t *testing.T) {
	cert := trusttest.NewCA(t, "one").Client("spiffe://example.org/broker")
	file := filepath.Join(t.TempDir(), "tls.pem")
	trusttest.Put(t, file, slices.Concat(trusttest.CertPEM(cert), trusttest.KeyPEM(t, cert)))
	cfg := Config{CertFile: file, KeyFile: file}
	if _, err := Open(cfg); err != nil {
		t.Error(err)
	}
	cfg.ReadKey = func(string) ([]byte, error) { return nil, os.ErrPermission }
	if _, err := Open(cfg); err == nil {
		t.Error("no error")
	}
}
