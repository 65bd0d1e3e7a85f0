// Package clienttls keeps the TLS files of a client: the authorities that it trusts, and
// the certificate with which it proves itself. Every outgoing connection of the broker
// and of its Go client takes them from here, so that files that are renewed are used
// without a restart.
//
// It knows neither gRPC nor what the connections are for. Its errors quote nothing of
// the files.
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

// Config names the files, all in PEM. CertFile and KeyFile go together.
type Config struct {
	// CAFile has the authorities that are trusted; empty for the system's.
	CAFile string
	// CertFile is the certificate chain, the leaf first, and KeyFile the leaf's key; empty
	// for none.
	CertFile, KeyFile string
	// Section, if not empty, is the section of a configuration file in which errors name
	// the settings, such as "tracing" for tracing.ca_file.
	Section string
	// ReadKey, if not nil, reads KeyFile in place of os.ReadFile.
	ReadKey func(path string) ([]byte, error)
	// Changed, if not nil, is told what is wrong with the files when that has changed;
	// problem is empty when they are good again.
	Changed func(problem string)
}

// Files holds what was last read from the files. It is safe for concurrent use.
//
// The files are read whenever a connection is made, instead of being watched:
// connections are rare, reading costs nothing beside a handshake, and no change
// is missed because it left time and size as they were.
type Files struct {
	cfg Config

	mu      sync.Mutex
	roots   *x509.CertPool
	cert    *tls.Certificate
	problem string // why the files on disk are not, or not all, in use
}

// Open reads the files, which must be good.
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

// current reads the files again and returns what is to be used now, and what is
// wrong with the files on disk if that is not what they contain.
func (f *Files) current() (roots *x509.CertPool, cert *tls.Certificate, problem string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.read(); err != nil {
		problem = err.Error()
	}
	if problem != f.problem { // told once, not at every connection
		f.problem = problem
		f.cfg.Changed(problem)
	}
	return f.roots, f.cert, problem
}

// TLS reads the files again and returns base with their authorities and certificate,
// for one connection. problem is what is wrong with the files on disk if those that were
// read earlier are still in use.
func (f *Files) TLS(base *tls.Config) (config *tls.Config, problem string) {
	c := base.Clone()
	roots, cert, problem := f.current()
	c.RootCAs = roots
	if cert != nil {
		// Not Certificates: those are held back when the server's list of CAs lacks
		// theirs, and the server would then report a missing certificate instead of a
		// wrong one.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return c, problem
}

// read takes over what can be used: the CA certificates, and the certificate
// with its key, each on its own.
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

// readRoots is strict where x509.CertPool.AppendCertsFromPEM is not: a file that
// is still being written is an error, not a shorter list.
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

// named is how errors call a file: by its setting, if there is a Section.
func (c *Config) named(plain, setting string) string {
	if c.Section == "" {
		return plain
	}
	return c.Section + "." + setting
}

// readKeyPair returns errors that quote nothing of the files.
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
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s %s with key file %s: %w", f.cfg.named("certificate file", "cert_file:"), f.cfg.CertFile, f.cfg.KeyFile, err)
	}
	return &cert, nil
}
