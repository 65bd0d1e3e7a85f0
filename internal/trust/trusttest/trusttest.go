// Package trusttest provides certificates, CRLs and a SPIFFE Workload API for tests. It
// must not be used in production.
package trusttest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/keyfile"
)

// CA is a certificate authority whose key exists only in memory.
type CA struct {
	Cert   *x509.Certificate
	t      testing.TB
	key    *ecdsa.PrivateKey
	serial int64
	crl    int64
	chain  [][]byte // for an intermediate: its chain without the root
}

// NewCA returns a root authority that is valid from a day ago until a day from now.
func NewCA(t testing.TB, name string) *CA {
	t.Helper()
	ca := &CA{t: t, key: newKey(t)}
	template := authority(name)
	template.SerialNumber = big.NewInt(1)
	ca.Cert = parse(t, create(t, template, template, ca.key, ca.key))
	return ca
}

// Sub returns an intermediate authority. Certificates that it issues include its chain.
func (ca *CA) Sub(name string) *CA {
	ca.t.Helper()
	sub := &CA{t: ca.t, key: newKey(ca.t)}
	template := authority(name)
	template.SerialNumber = ca.next()
	der := create(ca.t, template, ca.Cert, sub.key, ca.key)
	sub.Cert = parse(ca.t, der)
	sub.chain = append([][]byte{der}, ca.chain...)
	return sub
}

func authority(name string) *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-24 * time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

// T returns the test that the authority belongs to.
func (ca *CA) T() testing.TB { return ca.t }

func (ca *CA) next() *big.Int {
	ca.serial++
	return big.NewInt(0x1000 + ca.serial)
}

// Pool returns a pool that contains the authority.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.Cert)
	return pool
}

// Issue signs a leaf for clients and servers that is valid from an hour ago until an
// hour from now. change may modify the template.
func (ca *CA) Issue(change func(*x509.Certificate)) *tls.Certificate {
	ca.t.Helper()
	template := &x509.Certificate{
		SerialNumber: ca.next(),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	change(template)
	key := newKey(ca.t)
	der := create(ca.t, template, ca.Cert, key, ca.key)
	return &tls.Certificate{Certificate: append([][]byte{der}, ca.chain...), PrivateKey: key, Leaf: parse(ca.t, der)}
}

// Server issues a certificate for 127.0.0.1.
func (ca *CA) Server() *tls.Certificate {
	ca.t.Helper()
	return ca.Issue(func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} })
}

// Client issues a certificate with the given URIs, usually SPIFFE IDs.
func (ca *CA) Client(ids ...string) *tls.Certificate {
	ca.t.Helper()
	return ca.Issue(func(c *x509.Certificate) {
		for _, id := range ids {
			uri, err := url.Parse(id)
			if err != nil {
				ca.t.Fatal(err)
			}
			c.URIs = append(c.URIs, uri)
		}
	})
}

// DNS issues a certificate with the given DNS names.
func (ca *CA) DNS(names ...string) *tls.Certificate {
	ca.t.Helper()
	return ca.Issue(func(c *x509.Certificate) { c.DNSNames = names })
}

// PEM returns the authority's certificate.
func (ca *CA) PEM() []byte { return PEM("CERTIFICATE", ca.Cert.Raw) }

// PutPair writes a certificate with its chain, and its key, to files.
func PutPair(t testing.TB, cert *tls.Certificate, certFile, keyFile string) {
	t.Helper()
	Put(t, certFile, CertPEM(cert))
	Put(t, keyFile, KeyPEM(t, cert))
}

// CRL returns a list of revoked certificates, in DER, that is current for an hour.
// change may modify the list, and may be nil.
func (ca *CA) CRL(change func(*x509.RevocationList), revoked ...*x509.Certificate) []byte {
	ca.t.Helper()
	ca.crl++
	list := &x509.RevocationList{Number: big.NewInt(ca.crl), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(time.Hour)}
	for _, cert := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: cert.SerialNumber, RevocationTime: time.Now().Add(-time.Minute)})
	}
	if change != nil {
		change(list)
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, ca.Cert, ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	return der
}

// PEM encodes blocks of one type.
func PEM(kind string, ders ...[]byte) []byte {
	var out bytes.Buffer
	for _, der := range ders {
		_ = pem.Encode(&out, &pem.Block{Type: kind, Bytes: der})
	}
	return out.Bytes()
}

// CertPEM returns a certificate's chain in PEM.
func CertPEM(cert *tls.Certificate) []byte { return PEM("CERTIFICATE", cert.Certificate...) }

// KeyPEM returns a certificate's key in PEM.
func KeyPEM(t testing.TB, cert *tls.Certificate) []byte {
	t.Helper()
	return PEM("PRIVATE KEY", keyDER(t, cert))
}

func keyDER(t testing.TB, cert *tls.Certificate) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// Files contains the names of a broker's files.
type Files struct{ Cert, Key, ClientCA, CRL string }

// Write writes the files of a broker that accepts clients of ca, with a server
// certificate of ca and an empty CRL. The configuration may omit the CRL.
func (ca *CA) Write(dir string) Files {
	ca.t.Helper()
	f := Files{Cert: filepath.Join(dir, "server.pem"), Key: filepath.Join(dir, "server-key.pem"), ClientCA: filepath.Join(dir, "ca.pem"), CRL: filepath.Join(dir, "ca.crl")}
	PutPair(ca.t, ca.Server(), f.Cert, f.Key)
	Put(ca.t, f.ClientCA, ca.PEM())
	Put(ca.t, f.CRL, ca.CRL(nil))
	return f
}

// Put replaces a file atomically, by renaming another one over it.
func Put(t testing.TB, name string, data []byte) {
	t.Helper()
	if err := keyfile.Replace(name, data); err != nil {
		t.Fatal(err)
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func create(t testing.TB, template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func parse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
