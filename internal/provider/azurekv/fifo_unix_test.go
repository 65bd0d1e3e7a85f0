//go:build unix

package azurekv

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Opening a pipe would block until another process opens its other end.
func TestReadFileRefusesPipes(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	providertest.Must(t, syscall.Mkfifo(pipe, 0o600))
	for _, path := range []string{pipe, dir} {
		_, err := readFile("azure.ca_file", path)
		if e := secret.AsError(err); err == nil || !strings.Contains(e.Message, "azure.ca_file") || !strings.Contains(e.Message, "not a regular file") {
			t.Errorf("%s: %v", path, err)
		}
	}
}
