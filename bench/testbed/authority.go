package testbed

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net/url"
	"os"
	"time"
)

// Authority issues the callers' certificates.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	last int64
}

// NewAuthority returns an Authority that is valid for a day.
func NewAuthority() (*Authority, error) {
	a := &Authority{last: 1}
	cert, err := a.sign(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	if err != nil {
		return nil, err
	}
	a.key, _ = cert.PrivateKey.(*ecdsa.PrivateKey) // sign creates this type
	a.cert = cert.Leaf
	return a, nil
}

// Issue issues the certificate of the caller spiffe://example.org/PATH.
func (a *Authority) Issue(path string) (tls.Certificate, error) {
	return a.sign(&x509.Certificate{
		URIs:        []*url.URL{{Scheme: "spiffe", Host: "example.org", Path: path}},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// ClientTLS returns the TLS configuration of a caller with that certificate. The client
// verifies the server with caFile.
func ClientTLS(caFile string, cert tls.Certificate) (*tls.Config, error) {
	data, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(data)
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}}, nil
}

// sign signs a certificate with a new key; it is self-signed if a has no certificate yet.
func (a *Authority) sign(template *x509.Certificate) (tls.Certificate, error) {
	a.last++
	template.SerialNumber = big.NewInt(a.last)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(24*time.Hour)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}
