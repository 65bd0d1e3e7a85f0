package trust

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/secretbroker/secretbroker/internal/certfile"
	"github.com/secretbroker/secretbroker/internal/keyfile"
)

// The maximum sizes of files, in bytes.
const (
	maxPEM = 1 << 20
	maxCRL = 64 << 20
)

// FilesConfig configures a Store that reads files. All but CRLFiles and CRLDir are required.
type FilesConfig struct {
	// CertFile is a PEM file with the broker's certificate chain, the leaf first.
	CertFile string
	// KeyFile is a PEM file with the leaf's private key.
	KeyFile string
	// ClientCAFile is a PEM file with the authorities of client certificates.
	ClientCAFile string
	// CRLFiles are files with CRLs of those authorities, in PEM or DER. If there is at
	// least one file, or CRLDir is set, clients whose authority has no current CRL are
	// rejected.
	CRLFiles []string
	// CRLDir is a directory in which every file is such a file, except those whose names
	// begin with a dot. Files may be added, replaced and removed at any time. The CRL of a
	// file that has been removed remains in use until another file has a CRL of its
	// authority that is not older, or the authority is removed.
	CRLDir string
	Options
}

type digest [sha256.Size]byte

// files contains the last valid contents of the files. The certificate with its key,
// the authorities and each CRL file are updated independently of each other.
type files struct {
	cfg         FilesConfig
	pair        *tls.Certificate
	authorities []*x509.Certificate
	crls        map[string][]*crl
	// listed are the files of CRLDir, and vanished those that were removed from it while
	// their CRLs are in use.
	listed   []string
	vanished map[string]bool
	// good contains the digests of the contents in use, by file.
	good map[string]digest
}

// OpenFiles reads the files and returns a Store. All files must be valid, except that
// CRLs may have expired: clients of such an authority are rejected until its CRL has
// been replaced. OpenFiles starts no goroutine; Run keeps the Store current.
func OpenFiles(cfg FilesConfig) (*Store, error) {
	cfg.Options = cfg.withDefaults()
	f := newFiles(cfg)
	first, faults := f.read(cfg.Now())
	if len(faults) > 0 {
		var errs []error
		for _, source := range slices.Sorted(maps.Keys(faults)) {
			errs = append(errs, faults[source])
		}
		return nil, errors.Join(errs...)
	}
	s := newStore(cfg.Options, first)
	s.read, s.files = f.read, f
	return s, nil
}

func newFiles(cfg FilesConfig) *files {
	return &files{cfg: cfg, crls: make(map[string][]*crl), good: make(map[string]digest), vanished: make(map[string]bool)}
}

// read takes over the contents that are new and valid. It returns a snapshot, or nil if
// nothing has changed, and the errors by file.
func (f *files) read(now time.Time) (*snapshot, map[string]error) {
	faults := make(map[string]error)
	changed := false
	take := func(source string, readIt func() (bool, error)) {
		taken, err := readIt()
		if err != nil {
			faults[source] = err
		}
		changed = changed || taken
	}
	take(f.cfg.CertFile, func() (bool, error) { return f.readPair(now) })
	before := f.good[f.cfg.ClientCAFile]
	take(f.cfg.ClientCAFile, f.readAuthorities)
	if f.cfg.CRLDir != "" {
		take(f.cfg.CRLDir, f.listCRLs)
	}
	if f.good[f.cfg.ClientCAFile] != before {
		for _, name := range f.crlFiles() {
			delete(f.good, name) // check again which authority has signed them
		}
	}
	if f.authorities != nil {
		for _, name := range f.crlFiles() {
			take(name, func() (bool, error) { return f.readCRLs(name, now) })
		}
		taken := f.forgetVanished(faults)
		changed = changed || taken
	}
	if !changed || f.pair == nil || f.authorities == nil {
		return nil, faults
	}
	return newSnapshot(f.pair, f.authorities, f.revocation(), time.Time{}), faults
}

// isNew reports whether the data read from a file differs from the data in use. The
// caller must call the returned func when it has put the data into use.
func (f *files) isNew(source string, data ...[]byte) (bool, func()) {
	h := sha256.New()
	for _, d := range data {
		fmt.Fprintf(h, "%d\n", len(d))
		h.Write(d)
	}
	sum := digest(h.Sum(nil))
	return f.good[source] != sum, func() { f.good[source] = sum }
}

func (f *files) readPair(now time.Time) (bool, error) {
	certPEM, err := keyfile.ReadRegular(f.cfg.CertFile, maxPEM)
	if err != nil {
		return false, fmt.Errorf("read the server certificate: %w", err)
	}
	keyPEM, err := keyfile.Read(f.cfg.KeyFile, maxPEM)
	if err != nil {
		return false, fmt.Errorf("read the server certificate's key: %w", err)
	}
	defer clear(keyPEM)
	isNew, taken := f.isNew(f.cfg.CertFile, certPEM, keyPEM)
	if !isNew {
		return false, nil
	}
	pair, err := parsePair(certPEM, keyPEM, now)
	if err != nil {
		return false, fmt.Errorf("the server certificate %s with key %s: %w", f.cfg.CertFile, f.cfg.KeyFile, err)
	}
	taken()
	f.pair = pair
	return true, nil
}

// parsePair parses the certificate chain and its key. It does not wrap the errors of
// crypto/tls, so that no error can contain a part of the key.
func parsePair(certPEM, keyPEM []byte, now time.Time) (*tls.Certificate, error) {
	switch {
	case !certfile.Complete(certPEM):
		return nil, errors.New("the certificate file is truncated or damaged")
	case !certfile.Complete(keyPEM):
		return nil, errors.New("the key file is truncated or damaged")
	case certfile.EncryptedKey(keyPEM):
		return nil, errors.New("the key is encrypted; use an unencrypted key")
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, errors.New("the files are not a PEM certificate and its private key")
	}
	if err := checkValidity(pair.Leaf, now); err != nil {
		return nil, err
	}
	return &pair, nil
}

func checkValidity(leaf *x509.Certificate, now time.Time) error {
	switch {
	case now.After(leaf.NotAfter):
		return fmt.Errorf("it expired on %s; renew it", stamp(leaf.NotAfter))
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("it is not valid before %s; check the clock", stamp(leaf.NotBefore))
	}
	return nil
}

func (f *files) readAuthorities() (bool, error) {
	data, err := keyfile.ReadRegular(f.cfg.ClientCAFile, maxPEM)
	if err != nil {
		return false, fmt.Errorf("read the client CA file: %w", err)
	}
	isNew, taken := f.isNew(f.cfg.ClientCAFile, data)
	if !isNew {
		return false, nil
	}
	authorities, err := certfile.Parse(data)
	if err != nil {
		return false, fmt.Errorf("the client CA file %s: %w", f.cfg.ClientCAFile, err)
	}
	taken()
	f.authorities = authorities
	return true, nil
}
