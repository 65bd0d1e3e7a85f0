package devmode_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/secretbroker/secretbroker/internal/devmode"
	"github.com/secretbroker/secretbroker/internal/devmode/keyvault"
)

func TestServerCertificate(t *testing.T) {
	env := start(t, freePort(filepath.Join(t.TempDir(), "dev")))
	leaf := loadPair(t, env.ServerCertFile, env.ServerKeyFile)
	roots, others := pool(t, env.CAFile), pool(t, env.KeyVaultCAFile)
	for _, name := range []string{"localhost", "127.0.0.1", "::1"} {
		if _, err := leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if leaf.VerifyHostname("your-key-vault-name.vault.azure.net") == nil {
		t.Error("the broker's certificate is valid for a vault")
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: others}); err == nil {
		t.Error("the Key Vault's CA verifies the broker's certificate")
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("the broker's certificate is valid for a client")
	}
}

func TestClientCertificates(t *testing.T) {
	env := start(t, freePort(filepath.Join(t.TempDir(), "dev")))
	bundle, err := x509bundle.Load(spiffeid.RequireTrustDomainFromString("example.org"), env.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	for want, who := range map[string]devmode.Identity{
		"spiffe://example.org/connect/worker-1": env.Worker,
		"spiffe://example.org/other/worker-2":   env.OtherWorker,
		"spiffe://example.org/ops/auditor":      env.Auditor,
		"spiffe://example.org/admin/owner":      env.Owner,
	} {
		if who.ID != want {
			t.Errorf("ID = %q, want %q", who.ID, want)
		}
		leaf := loadPair(t, who.CertFile, who.KeyFile)
		id, _, err := x509svid.Verify([]*x509.Certificate{leaf}, bundle)
		if err != nil || id.String() != want {
			t.Errorf("SVID of %q, error %v, want %q", id, err, want)
		}
		usages := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool(t, env.CAFile), KeyUsages: usages}); err != nil {
			t.Errorf("%s as a client: %v", want, err)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool(t, env.KeyVaultCAFile), KeyUsages: usages}); err == nil {
			t.Errorf("%s: the Key Vault's CA verifies the certificate", want)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool(t, env.CAFile)}); err == nil {
			t.Errorf("%s is valid for a server", want)
		}
		if len(leaf.DNSNames)+len(leaf.IPAddresses) > 0 || leaf.IsCA {
			t.Errorf("%s has other names or is a CA", want)
		}
	}
}

func TestKeyVaultCertificate(t *testing.T) {
	env := start(t, freePort(filepath.Join(t.TempDir(), "dev")))
	for _, name := range []string{"your-key-vault-name.vault.azure.net", keyvault.QueueHost, "127.0.0.1", "::1", "localhost"} {
		conn, err := tls.Dial("tcp", env.VaultListen, &tls.Config{RootCAs: pool(t, env.KeyVaultCAFile), ServerName: name})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
	if conn, err := tls.Dial("tcp", env.VaultListen, &tls.Config{RootCAs: pool(t, env.CAFile), ServerName: "127.0.0.1"}); err == nil {
		t.Error("the broker's CA verifies the Key Vault's certificate", conn.Close())
	}
}

func TestCAKeysAreNotKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dev")
	env := start(t, freePort(dir))
	files, err := filepath.Glob(filepath.Join(dir, "*.*"))
	if err != nil {
		t.Fatal(err)
	}
	keys := 0
	for _, file := range files {
		for rest := read(t, file); bytes.Contains(rest, []byte("PRIVATE KEY")); keys++ {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				t.Fatalf("%s has a key that is not PEM", file)
			}
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			for _, ca := range []string{env.CAFile, env.KeyVaultCAFile} {
				if certificate(t, ca).PublicKey.(*ecdsa.PublicKey).Equal(key.(crypto.Signer).Public()) {
					t.Errorf("%s is the key of %s", file, ca)
				}
			}
		}
	}
	if keys != 5 {
		t.Errorf("%d keys on disk, want those of the server and four clients", keys)
	}
}

func TestCertificatesFollowTheClock(t *testing.T) {
	now := time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)
	opts := freePort(filepath.Join(t.TempDir(), "dev"))
	opts.Now = func() time.Time { return now }
	env := start(t, opts)
	for _, file := range []string{env.CAFile, env.KeyVaultCAFile, env.ServerCertFile, env.Worker.CertFile} {
		cert := certificate(t, file)
		if !cert.NotBefore.Before(now) || !cert.NotAfter.After(now) || cert.NotAfter.After(now.AddDate(0, 0, 31)) {
			t.Errorf("%s is valid from %v to %v", file, cert.NotBefore, cert.NotAfter)
		}
	}
}

func loadPair(t *testing.T, certFile, keyFile string) *x509.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf
}

func pool(t *testing.T, file string) *x509.CertPool {
	t.Helper()
	p := x509.NewCertPool()
	p.AddCert(certificate(t, file))
	return p
}

func certificate(t *testing.T, file string) *x509.Certificate {
	t.Helper()
	block, rest := pem.Decode(read(t, file))
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		t.Fatalf("%s is not one PEM block", file)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
