package localfile

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/secret"
)

var _ provider.Validator = (*store)(nil)

// Validate implements provider.Validator. It checks that each directory exists and
// can be listed, and that each environment variable is set. It opens no file.
func (s *store) Validate(ctx context.Context) []provider.Step {
	var steps []provider.Step
	for _, dir := range s.local.Directories {
		step := provider.Step{Step: provider.StepReadStore, Store: StoreOf(dir), Found: "the directory is there and can be looked into"}
		if err := s.list(ctx, dir); err != nil {
			step.Found, step.Err = "", err
		}
		steps = append(steps, step)
	}
	for _, name := range s.local.Environment {
		step := provider.Step{Step: provider.StepReadStore, Store: secret.LocalEnvironment + "::" + name, Found: "the variable is set"}
		if _, ok := s.lookupEnv(name); !ok {
			step.Found, step.Err = "", errNoVariable()
		}
		steps = append(steps, step)
	}
	return steps
}

// list lists a directory. It returns when ctx ends, because listing a directory on a
// file server that has disappeared blocks for ever.
func (s *store) list(ctx context.Context, dir string) error {
	done := make(chan error, 1)
	if !s.reads.Start(func(context.Context) { done <- listable(dir) }) {
		return storeerror.Closed()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return secret.Errorf(secret.ReasonStoreUnavailable, "timed out reading the directory %s; check the file system it is on", dir).WithCause(ctx.Err())
	}
}

func listable(dir string) error {
	if real, err := filepath.EvalSymlinks(dir); err == nil && isKernel(real) {
		return errKernel()
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return explainDirectory(dir, err)
	}
	defer func() { _ = root.Close() }() // it was only read
	f, err := root.Open(".")
	if err != nil {
		return explainDirectory(dir, err)
	}
	defer func() { _ = f.Close() }() // it was only read
	if _, err := f.Readdirnames(1); err != nil && !errors.Is(err, io.EOF) {
		return explainDirectory(dir, err)
	}
	return nil
}
