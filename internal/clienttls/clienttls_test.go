package clienttls

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

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

// TestKeyFormats: keys in PKCS #8, PKCS #1 and SEC 1, the formats that cert-manager writes, are
// accepted. Encrypted keys are not, and the error says so.
func TestKeyFormats(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(ecKey)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(ecKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		kind  string
		der   []byte
		key   crypto.Signer
		fault string
	}{
		{"PRIVATE KEY", pkcs8, ecKey, ""},
		{"EC PRIVATE KEY", sec1, ecKey, ""},
		{"RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey), rsaKey, ""},
		{"ENCRYPTED PRIVATE KEY", pkcs8, ecKey, "the key is encrypted; use an unencrypted key"},
	} {
		dir := t.TempDir()
		cfg := Config{CertFile: filepath.Join(dir, "tls.pem"), KeyFile: filepath.Join(dir, "key.pem")}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
		cert, err := x509.CreateCertificate(rand.Reader, template, template, tt.key.Public(), tt.key)
		if err != nil {
			t.Fatal(err)
		}
		trusttest.Put(t, cfg.CertFile, trusttest.PEM("CERTIFICATE", cert))
		trusttest.Put(t, cfg.KeyFile, trusttest.PEM(tt.kind, tt.der))
		_, err = Open(cfg)
		if (err == nil) != (tt.fault == "") || err != nil && !strings.Contains(err.Error(), tt.fault) {
			t.Errorf("%s: %v", tt.kind, err)
		}
	}
}
