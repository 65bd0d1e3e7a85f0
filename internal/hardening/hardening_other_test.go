//go:build !linux

package hardening

import (
	"strings"
	"testing"
)

// Other platforms log a warning, and return an error only if locking is configured.
func TestApplyElsewhere(t *testing.T) {
	if err := Apply(Config{}); err != nil {
		t.Error(err)
	}
	if err := Apply(Config{LockMemory: true}); err == nil || !strings.Contains(err.Error(), "Linux only") {
		t.Errorf("locking: %v", err)
	}
}
