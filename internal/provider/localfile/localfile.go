// Package localfile reads secrets from files and environment variables of the
// broker's own machine: for development, for machines that cannot reach a store, and
// for machines whose orchestrator mounts secrets as files.
//
// It owns the resolution of a reference to a file. The file is always inside a
// directory that the integration lists: neither ".." nor a symbolic link can lead out
// of it. The package keeps no value, no token and no session: every Fetch reads.
// Authorization, caching and limits on requests belong to its callers.
//
// A read from a network file system may block for ever, so each read runs in a
// goroutine of its own, and Fetch returns when its context ends.
package localfile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/secretbroker/secretbroker/internal/connectorfile"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/provider/task"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// MaxSize is the maximum size of a file, in bytes.
const MaxSize = 256 << 10

// propertiesSuffix is the suffix of files that are read as properties.
const propertiesSuffix = ".properties"

// closeTimeout limits how long Close waits for reads that block, for example on a
// file server that has disappeared.
const closeTimeout = 5 * time.Second

// Opener returns the provider.Opener of local files, which uses nothing of the
// Config. Opening accesses no file.
func Opener(provider.Config) provider.Opener { return opener(os.LookupEnv) }

// opener returns an Opener that reads environment variables with lookupEnv.
func opener(lookupEnv func(name string) (value string, ok bool)) provider.Opener {
	return func(_ context.Context, in *integration.Integration) (provider.Provider, error) {
		local := settingsOf(in)
		if in.Kind != secret.KindLocalFile || local == nil {
			return nil, storeerror.Setup("the integration has no local settings")
		}
		return &store{lookupEnv: lookupEnv, local: local, stores: local.StoreNames(), reads: task.NewGroup()}, nil
	}
}

// store reads the files of one integration.
type store struct {
	lookupEnv func(name string) (value string, ok bool)
	local     *Settings
	stores    []string
	reads     *task.Group
}

var _ provider.Provider = (*store)(nil)

// Fetch implements provider.Provider. The version is the file's modification time.
// The value of a file whose name ends with ".properties" is a JSON object of its
// properties.
func (s *store) Fetch(ctx context.Context, ref secret.Ref) (*secret.Secret, error) {
	if err := provider.CheckRef(ref, secret.KindLocalFile); err != nil {
		return nil, err
	}
	if !slices.Contains(s.stores, ref.Store) {
		return nil, secret.Errorf(secret.ReasonStoreNotAllowed, "the store is not one of the integration's; add it to local.directories or local.environment")
	}
	if ref.Store == secret.LocalEnvironment {
		return s.variable(ref.Name)
	}
	type result struct {
		secret *secret.Secret
		err    error
	}
	// A read from a file server that has disappeared blocks for ever.
	done := make(chan result, 1)
	if !s.reads.Start(func(context.Context) {
		got, err := readSecret(strings.TrimPrefix(ref.Store, "file://"), ref.Name)
		done <- result{got, err}
	}) {
		return nil, storeerror.Closed()
	}
	select {
	case r := <-done:
		return r.secret, r.err
	case <-ctx.Done():
		return nil, secret.Errorf(secret.ReasonStoreUnavailable, "reading the file did not finish before the request's deadline; check the file system it is on").WithCause(ctx.Err())
	}
}

// Close implements provider.Provider.
func (s *store) Close() error { return s.reads.Stop(closeTimeout) }

// variable reads an environment variable. The environment of a process does not
// change, so there is one version.
func (s *store) variable(name string) (*secret.Secret, error) {
	if !slices.Contains(s.local.Environment, name) {
		return nil, secret.Errorf(secret.ReasonStoreNotAllowed, "the environment variable is not one of the integration's; add it to local.environment")
	}
	value, ok := s.lookupEnv(name)
	if !ok {
		return nil, errNoVariable()
	}
	return secret.New("environment", time.Now(), time.Time{}, []byte(value)), nil
}

func errNoVariable() *secret.Error {
	return secret.Errorf(secret.ReasonSecretNotFound, "the broker's process has no environment variable of that name; set it where the broker is started")
}

func errKernel() *secret.Error {
	return secret.Errorf(secret.ReasonStoreAccessDenied, "the directory leads to /proc, /sys or /dev, which are never read; fix local.directories")
}

func readSecret(dir, name string) (*secret.Secret, error) {
	began := time.Now()
	if real, err := filepath.EvalSymlinks(dir); err == nil && isKernel(real) {
		return nil, errKernel()
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, explainDirectory(dir, err)
	}
	defer func() { _ = root.Close() }() // it was only read
	content, changed, err := read(root, name)
	if err != nil {
		return nil, explainFile(dir, err)
	}
	if strings.HasSuffix(name, propertiesSuffix) {
		if content, err = properties(content); err != nil {
			return nil, err
		}
	}
	return secret.New(changed.UTC().Format(time.RFC3339Nano), began, time.Time{}, content), nil
}

func isKernel(dir string) bool {
	return slices.ContainsFunc([]string{"/proc", "/sys", "/dev"}, func(k string) bool {
		return dir == k || strings.HasPrefix(dir, k+"/")
	})
}

var (
	errNoFile   = errors.New("localfile: not a regular file")
	errChanging = errors.New("localfile: the file changes while it is read")
)

// sizeError is the error for a file that is larger than MaxSize. It is the file's size in
// bytes.
type sizeError int64

func (e sizeError) Error() string { return fmt.Sprintf("localfile: the file has %d bytes", int64(e)) }

// read returns a file's content and its modification time.
func read(root *os.Root, name string) (content []byte, changed time.Time, err error) {
	// Check before opening, because opening a pipe or a device may have an effect.
	if info, err := root.Stat(name); err != nil || !info.Mode().IsRegular() {
		return nil, time.Time{}, errors.Join(err, errIf(err == nil, errNoFile))
	}
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, time.Time{}, err
	}
	defer func() { _ = f.Close() }() // it was only read
	before, err := f.Stat()
	switch {
	case err != nil:
		return nil, time.Time{}, err
	case !before.Mode().IsRegular():
		return nil, time.Time{}, errNoFile
	case before.Size() > MaxSize:
		return nil, time.Time{}, sizeError(before.Size())
	}
	content = make([]byte, before.Size())
	if _, err := io.ReadFull(f, content); err != nil {
		clear(content)
		return nil, time.Time{}, errChanging
	}
	after, err := f.Stat()
	if err != nil || after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()) {
		clear(content)
		return nil, time.Time{}, errChanging
	}
	return content, before.ModTime(), nil
}

func errIf(is bool, err error) error {
	if is {
		return err
	}
	return nil
}

// properties converts the content of a .properties file to a JSON object, and
// overwrites content.
func properties(content []byte) ([]byte, error) {
	defer clear(content)
	all, err := connectorfile.ParseSecrets(content)
	if err != nil {
		var fault *connectorfile.Error
		at := ""
		if errors.As(err, &fault) && fault.Line > 0 {
			at = fmt.Sprintf(" (line %d)", fault.Line)
		}
		// The error may quote a name, and a file that is not in this format may have
		// values where names are expected.
		return nil, secret.Errorf(secret.ReasonSecretNotJSON,
			"the file's name ends with .properties, but it is not a valid properties file%s: it must contain each property once, as key=value, in UTF-8; fix or rename it", at)
	}
	return json.Marshal(all)
}

func explainDirectory(dir string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return secret.Errorf(secret.ReasonStoreNotFound, "there is no directory %s on the broker's machine; create it, or fix local.directories", dir).WithCause(err)
	case errors.Is(err, fs.ErrPermission):
		return secret.Errorf(secret.ReasonStoreAccessDenied, "the broker's user may not read the directory %s; grant it the permission", dir).WithCause(err)
	default:
		return secret.Errorf(secret.ReasonStoreUnavailable, "the directory %s cannot be opened; check its file system", dir).WithCause(err)
	}
}

// explainFile returns the error for a file below dir. It does not contain the file's
// name, which is in the audit record.
func explainFile(dir string, err error) error {
	var (
		errno syscall.Errno
		size  sizeError
	)
	switch {
	case errors.Is(err, errNoFile):
		return secret.Errorf(secret.ReasonSecretNotFound, "the entry with that name in %s is not a regular file; fix the reference", dir)
	case errors.As(err, &size):
		return secret.Errorf(secret.ReasonSecretTooLarge, "the file in %s has %d bytes, but the broker reads at most %d bytes (256 KiB) of a file; store a smaller secret", dir, int64(size), MaxSize)
	case errors.Is(err, errChanging):
		return secret.Errorf(secret.ReasonStoreUnavailable, "the file in %s was changed while it was read; replace files by renaming new ones over them", dir).WithCause(storeerror.ErrAnswered)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ENAMETOOLONG):
		return secret.Errorf(secret.ReasonSecretNotFound, "%s has no file of that name; fix the reference or create it", dir)
	case errors.Is(err, fs.ErrPermission):
		return secret.Errorf(secret.ReasonStoreAccessDenied, "the broker's user may not read the file in %s; grant it the permission", dir)
	case errors.As(err, &errno) && errno != syscall.ELOOP:
		return secret.Errorf(secret.ReasonStoreUnavailable, "the file in %s cannot be read; check its file system", dir).WithCause(errno)
	default: // os.Root refused to leave the directory
		return secret.Errorf(secret.ReasonStoreAccessDenied, "a symbolic link leads out of %s, and the broker does not read outside it; put the file itself there", dir)
	}
}
