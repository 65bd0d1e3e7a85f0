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

// maxFile is the most that is read of a file that a setting names, in bytes.
const maxFile = 1 << 20

// ReadFile returns the content of the file that a setting names, without
// surrounding white space and without the byte order mark that editors on
// Windows write. Errors name setting and file.
func ReadFile(setting, path string) ([]byte, error) {
	if path == "" {
		return nil, storeerror.Setup("%s is missing", setting)
	}
	// Asked before opening: to open a pipe waits for its other end.
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

// trim cuts surrounding white space and the byte order mark that editors on
// Windows write.
func trim(b []byte) []byte {
	return bytes.TrimSpace(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")))
}

// ReadCredential returns what open returns: the credential that is stored sealed with
// the integration in place of the file that a setting would name. If the setting names a
// file, or open is nil, it returns what ReadFile returns. The caller owns the bytes.
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

// ReadPrivateKey is ReadCredential for a credential that has a private key. A file that
// others than its owner may read or write is refused, see package keyfile.
func ReadPrivateKey(ctx context.Context, open func(context.Context) ([]byte, error), setting, path string) ([]byte, error) {
	if path == "" {
		return ReadCredential(ctx, open, setting, path)
	}
	b, err := keyfile.Read(path, maxFile)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return nil, unreadable(setting, path, err)
	case err != nil: // which names the file
		return nil, storeerror.Setup("%s: %v", setting, err)
	}
	if b = trim(b); len(b) == 0 {
		return nil, storeerror.Setup("%s: %s is empty", setting, path)
	}
	return b, nil
}

// CredentialSource is the text that tells people where ReadCredential takes a credential
// from.
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

// LoadRoots returns the system's roots and those in path; or nil, which means the
// system's, if path is empty.
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
		return nil, storeerror.Setup("%s: the system's roots, to which it is added, cannot be loaded", setting).WithCause(err)
	}
	if !roots.AppendCertsFromPEM(b) {
		return nil, storeerror.Setup("%s: %s holds no certificate in PEM form", setting, path)
	}
	return roots, nil
}
