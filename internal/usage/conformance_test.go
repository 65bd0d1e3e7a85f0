package usage

import (
	"testing"

	"github.com/secretbroker/secretbroker/internal/registry/registrytest"
)

// TestMemory: a Memory keeps versions and reads of stores as the databases do.
func TestMemory(t *testing.T) {
	t.Run("UsageVersions", func(t *testing.T) { registrytest.UsageVersions(t, NewMemory(0)) })
	t.Run("UsagePages", func(t *testing.T) { registrytest.UsagePages(t, NewMemory(0)) })
	t.Run("Seen", func(t *testing.T) { registrytest.Seen(t, NewMemory(0)) })
}
