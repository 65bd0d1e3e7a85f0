package egress

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/secretbroker/secretbroker/internal/keyfile"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
)

// maxFile limits the size of a file that a setting names, in bytes.
const maxFile = 1 << 20

// ReadFile returns the content of the file that a setting names, without surrounding
// white space and without the byte order mark that some Windows editors write. Errors
// name the setting and the file.
func ReadFile(setting, path string) ([]byte, error) {
	if path == "" {
		return nil, storeerror.Setup("%s is missing", setting)
	}
	// Check before opening, because opening a pipe blocks until another process opens
	// its other end.
	info, err := os.Stat(path)
	if err != nil {
		return nil, unreadable(setting, path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, storeerror.Setup("%s: %s is not a regular file", setting, path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, unreadable(setting, path, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, unreadable(setting, path, err)
	}
	if len(b) > maxFile {
		return nil, storeerror.Setup("%s: %s is larger than %d bytes", setting, path, maxFile)
	}
	if b = trim(b); len(b) == 0 {
		return nil, storeerror.Setup("%s: %s is empty", setting, path)
	}
	return b, nil
}

// trim removes surrounding white space and the byte order mark that some Windows
// editors write.
func trim(b []byte) []byte {
	return bytes.TrimSpace(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")))
}

// ReadCredential returns a credential. If open is not nil and the setting names no
// file, it returns the credential that is stored sealed with the integration, through
// open. Otherwise it returns the result of ReadFile. The caller owns the bytes.
func ReadCredential(ctx context.Context, open func(context.Context) ([]byte, error), setting, path string) ([]byte, error) {
	if path != "" || open == nil {
		return ReadFile(setting, path)
	}
	name := strings.TrimSuffix(setting, "_file")
	b, err := open(ctx)
	if err != nil {
		return nil, storeerror.Setup("%s: the credential stored with the integration cannot be opened; set it again, or give the broker the key that it was sealed with", name).WithCause(err)
	}
	if b = trim(b); len(b) == 0 {
		return nil, storeerror.Setup("%s: the credential stored with the integration is empty; set it again", name)
	}
	return b, nil
}

// ReadPrivateKey is like ReadCredential, for a credential with a private key. It
// refuses a file that other users than its owner may read or write, see package
// keyfile.
func ReadPrivateKey(ctx context.Context, open func(context.Context) ([]byte, error), setting, path string) ([]byte, error) {
	if path == "" {
		return ReadCredential(ctx, open, setting, path)
	}
	b, err := keyfile.Read(path, maxFile)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return nil, unreadable(setting, path, err)
	case err != nil: // the error names the file
		return nil, storeerror.Setup("%s: %v", setting, err)
	}
	if b = trim(b); len(b) == 0 {
		return nil, storeerror.Setup("%s: %s is empty", setting, path)
	}
	return b, nil
}

// CredentialSource returns the source of a credential for messages, as ReadCredential
// chooses it.
func CredentialSource(path string) string {
	return cmp.Or(path, "what is stored with the integration")
}

func unreadable(setting, path string, err error) error {
	what := "cannot be read"
	switch {
	case errors.Is(err, fs.ErrNotExist):
		what = "does not exist"
	case errors.Is(err, fs.ErrPermission):
		what = "may not be read by the broker's user"
	}
	return storeerror.Setup("%s: %s %s", setting, path, what).WithCause(err)
}

// LoadRoots returns the system's roots and those in path. If path is empty it returns
// nil, which means the system's roots.
func LoadRoots(setting, path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	b, err := ReadFile(setting, path)
	if err != nil {
		return nil, err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, storeerror.Setup("%s: cannot load the system's roots, to which the broker adds it", setting).WithCause(err)
	}
	if !roots.AppendCertsFromPEM(b) {
		return nil, storeerror.Setup("%s: %s contains no certificate in PEM form", setting, path)
	}
	return roots, nil
}
