package client

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/secretbroker/secretbroker/internal/certfile"
)

// files holds what was last read from the CA, certificate and key files. It is
// safe for concurrent use.
//
// The files are read whenever a connection is made, instead of being watched:
// connections are rare, reading costs nothing beside a handshake, and no change
// is missed because it left time and size as they were.
type files struct {
	caFile, certFile, keyFile string
	log                       *slog.Logger

	mu      sync.Mutex
	roots   *x509.CertPool
	cert    *tls.Certificate
	problem string // why the files on disk are not, or not all, in use
}

// openFiles reads the files that cfg names.
func openFiles(cfg Config) (*files, error) {
	f := &files{caFile: cfg.CAFile, certFile: cfg.CertFile, keyFile: cfg.KeyFile, log: cfg.Logger}
	if err := f.read(); err != nil {
		return nil, err
	}
	return f, nil
}

// current reads the files again and returns what is to be used now, and what is
// wrong with the files on disk if they could not be used.
func (f *files) current() (roots *x509.CertPool, cert *tls.Certificate, problem string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.read(); err != nil {
		problem = err.Error()
	}
	if problem != f.problem { // told once, not at every connection
		f.problem = problem
		if problem != "" {
			f.log.Warn("secretbroker: TLS files cannot be used, those read earlier stay in use", "error", problem)
		} else {
			f.log.Info("secretbroker: TLS files can be used again")
		}
	}
	return f.roots, f.cert, problem
}

// read takes over what can be used: the CA certificates, and the certificate
// with its key, each on its own.
func (f *files) read() error {
	roots, caErr := readRoots(f.caFile)
	if caErr == nil {
		f.roots = roots
	}
	cert, certErr := readKeyPair(f.certFile, f.keyFile)
	if certErr == nil {
		f.cert = cert
	}
	return errors.Join(caErr, certErr)
}

// readRoots is strict where x509.CertPool.AppendCertsFromPEM is not: a file that
// is still being written is an error, not a shorter list.
func readRoots(path string) (*x509.CertPool, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("CA file: %w", err)
	}
	roots, err := certfile.Pool(b)
	if err != nil {
		return nil, fmt.Errorf("CA file %s: %w", path, err)
	}
	return roots, nil
}

// readKeyPair returns errors that quote nothing of the files.
func readKeyPair(certFile, keyFile string) (*tls.Certificate, error) {
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("certificate file: %w", err)
	}
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	if !certfile.Complete(certPEM) {
		return nil, fmt.Errorf("certificate file %s: a certificate in it is cut off or damaged", certFile)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("certificate file %s with key file %s: %w", certFile, keyFile, err)
	}
	return &cert, nil
}
