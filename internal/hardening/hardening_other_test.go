//go:build !linux

package hardening

import (
	"strings"
	"testing"
)

// What a platform does not have is logged, and refused where it was asked for.
func TestApplyElsewhere(t *testing.T) {
	if err := Apply(Config{}); err != nil {
		t.Error(err)
	}
	if err := Apply(Config{LockMemory: true}); err == nil || !strings.Contains(err.Error(), "Linux only") {
		t.Errorf("locking: %v", err)
	}
}
