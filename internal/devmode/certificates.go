package devmode

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/secretbroker/secretbroker/internal/devmode/keyvault"
	"github.com/secretbroker/secretbroker/internal/keyfile"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	// certLifetime is the lifetime of the certificates. Every Start makes new ones.
	certLifetime = 30 * 24 * time.Hour
	// certBackdate allows for clocks that are behind, for example in containers on the
	// same machine.
	certBackdate = time.Hour
)

// loopbackIPs are the addresses in the server certificates.
var loopbackIPs = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}

// authority is a throwaway CA. Its key exists in memory only.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(name string, now time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-certBackdate),
		NotAfter:              now.Add(certLifetime),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{cert: cert, key: key}, nil
}

func (a *authority) pem() []byte { return certPEM(a.cert.Raw) }

// issue completes the template and signs a certificate with a new key.
func (a *authority) issue(template *x509.Certificate) (der []byte, key *ecdsa.PrivateKey, err error) {
	key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template.NotBefore = a.cert.NotBefore
	template.NotAfter = a.cert.NotAfter
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	der, err = x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	return der, key, err
}

func serverTemplate(name string, dnsNames ...string) *x509.Certificate {
	return &x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		DNSNames:    dnsNames,
		IPAddresses: loopbackIPs,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
}

// clientTemplate returns the template of an X.509-SVID: one URI and no other name (SPIFFE
// X509-SVID section 2).
func clientTemplate(id string) (*x509.Certificate, error) {
	uri, err := url.Parse(id)
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		URIs:        []*url.URL{uri},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, nil
}

// writeCertificates replaces every certificate and key in the folder, and returns the
// certificate of the embedded Key Vault, whose key exists in memory only.
func (env *Environment) writeCertificates(now time.Time) (tls.Certificate, error) {
	ca, err := newAuthority("secretbroker development CA", now)
	if err != nil {
		return tls.Certificate{}, err
	}
	if err := ca.writePair(env.ServerCertFile, env.ServerKeyFile, serverTemplate("secretbroker", "localhost")); err != nil {
		return tls.Certificate{}, err
	}
	for _, who := range []Identity{env.Worker, env.OtherWorker, env.Auditor, env.Owner} {
		template, err := clientTemplate(who.ID)
		if err != nil {
			return tls.Certificate{}, err
		}
		if err := ca.writePair(who.CertFile, who.KeyFile, template); err != nil {
			return tls.Certificate{}, err
		}
	}
	// A separate CA: the broker trusts it for the vault, and not for callers.
	vaultCA, err := newAuthority("secretbroker embedded Key Vault CA", now)
	if err != nil {
		return tls.Certificate{}, err
	}
	der, key, err := vaultCA.issue(serverTemplate("embedded Key Vault", "localhost", "*.vault.azure.net", keyvault.QueueHost,
		"*.googleapis.com", secret.GCPEndpoint(googleRegion), "*."+awsRegion+".amazonaws.com"))
	if err != nil {
		return tls.Certificate{}, err
	}
	if err := keyfile.Replace(env.CAFile, ca.pem()); err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, keyfile.Replace(env.KeyVaultCAFile, vaultCA.pem())
}

// writePair issues a certificate and writes it and its key to files.
func (a *authority) writePair(certFile, keyFile string, template *x509.Certificate) error {
	der, key, err := a.issue(template)
	if err != nil {
		return fmt.Errorf("issue %s: %w", certFile, err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode %s: %w", keyFile, err)
	}
	if err := keyfile.Replace(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})); err != nil {
		return err
	}
	return keyfile.Replace(certFile, certPEM(der))
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
