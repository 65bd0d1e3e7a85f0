// Package clienttls reads the TLS files of a client: the authorities that it trusts, and its
// client certificate. Every outgoing connection of the broker and of its Go client uses it,
// so that renewed files take effect without a restart.
//
// The package knows neither gRPC nor the purpose of the connections. Its errors contain
// nothing from the files.
package clienttls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/secretbroker/secretbroker/internal/certfile"
)

// Config has the paths of the files, all in PEM. CertFile and KeyFile go together.
type Config struct {
	// CAFile contains the trusted authorities; empty for the system's.
	CAFile string
	// CertFile contains the certificate chain, the leaf first, and KeyFile the leaf's key;
	// empty for none.
	CertFile, KeyFile string
	// Section, if not empty, is the section of the configuration file whose settings are
	// named in errors, such as "tracing" for tracing.ca_file.
	Section string
	// ReadKey, if not nil, reads KeyFile instead of os.ReadFile.
	ReadKey func(path string) ([]byte, error)
	// Changed, if not nil, is called when the problem with the files has changed; problem is
	// empty when they are valid again.
	Changed func(problem string)
}

// Files holds the last valid contents of the files. It is safe for concurrent use.
//
// It reads the files for each connection instead of watching them: connections are rare,
// reading is cheap compared with a handshake, and it cannot miss a change that leaves time
// and size of a file unchanged.
type Files struct {
	cfg Config

	mu      sync.Mutex
	roots   *x509.CertPool
	cert    *tls.Certificate
	problem string // why some or all files on disk are not in use
}

// Open reads the files. It fails if they are invalid.
func Open(cfg Config) (*Files, error) {
	if cfg.ReadKey == nil {
		cfg.ReadKey = os.ReadFile
	}
	if cfg.Changed == nil {
		cfg.Changed = func(string) {}
	}
	f := &Files{cfg: cfg}
	if err := f.read(); err != nil {
		return nil, err
	}
	return f, nil
}

// current reads the files again and returns what to use now. problem describes what is wrong
// with the files on disk if older contents are in use.
func (f *Files) current() (roots *x509.CertPool, cert *tls.Certificate, problem string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.read(); err != nil {
		problem = err.Error()
	}
	if problem != f.problem { // report a change, not every connection
		f.problem = problem
		f.cfg.Changed(problem)
	}
	return f.roots, f.cert, problem
}

// TLS reads the files again and returns base with their authorities and certificate, for one
// connection. problem describes what is wrong with the files on disk if older contents are
// in use.
func (f *Files) TLS(base *tls.Config) (config *tls.Config, problem string) {
	c := base.Clone()
	roots, cert, problem := f.current()
	c.RootCAs = roots
	if cert != nil {
		// Not Certificates: crypto/tls does not send them if the server's list of CAs lacks
		// their issuer, and the server would then report a missing certificate instead of a
		// wrong one.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return c, problem
}

// read reads the CA certificates, and the certificate with its key. It keeps each of the two
// that is valid, even if the other is not.
func (f *Files) read() error {
	var caErr, certErr error
	if f.cfg.CAFile != "" {
		var roots *x509.CertPool
		if roots, caErr = f.readRoots(); caErr == nil {
			f.roots = roots
		}
	}
	if f.cfg.CertFile != "" {
		var cert *tls.Certificate
		if cert, certErr = f.readKeyPair(); certErr == nil {
			f.cert = cert
		}
	}
	return errors.Join(caErr, certErr)
}

// readRoots is stricter than x509.CertPool.AppendCertsFromPEM: a partly written file is an
// error and not a shorter list.
func (f *Files) readRoots() (*x509.CertPool, error) {
	b, err := os.ReadFile(f.cfg.CAFile)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.cfg.named("CA file", "ca_file"), err)
	}
	roots, err := certfile.Pool(b)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", f.cfg.named("CA file", "ca_file:"), f.cfg.CAFile, err)
	}
	return roots, nil
}

// named returns the name of a file in errors: its setting, if there is a Section.
func (c *Config) named(plain, setting string) string {
	if c.Section == "" {
		return plain
	}
	return c.Section + "." + setting
}

// readKeyPair returns errors that contain nothing from the files.
func (f *Files) readKeyPair() (*tls.Certificate, error) {
	certPEM, err := os.ReadFile(f.cfg.CertFile)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.cfg.named("certificate file", "cert_file"), err)
	}
	keyPEM, err := f.cfg.ReadKey(f.cfg.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.cfg.named("key file", "key_file"), err)
	}
	defer clear(keyPEM)
	if !certfile.Complete(certPEM) {
		return nil, fmt.Errorf("%s %s: it contains a truncated or damaged certificate", f.cfg.named("certificate file", "cert_file:"), f.cfg.CertFile)
	}
	if certfile.EncryptedKey(keyPEM) {
		return nil, fmt.Errorf("%s %s: the key is encrypted; use an unencrypted key", f.cfg.named("key file", "key_file:"), f.cfg.KeyFile)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s %s with key file %s: %w", f.cfg.named("certificate file", "cert_file:"), f.cfg.CertFile, f.cfg.KeyFile, err)
	}
	return &cert, nil
}
