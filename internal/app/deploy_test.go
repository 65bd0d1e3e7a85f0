package app

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/config"
)

// TestDeployExamples: the broker accepts the configuration in deploy/, and ends within the
// timeout of the service managers there.
func TestDeployExamples(t *testing.T) {
	cfg, err := config.Load(filepath.Join("..", "..", "deploy", "kubernetes", "secretbroker.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	const given = 30 * time.Second // terminationGracePeriodSeconds, TimeoutStopSec
	if ends := time.Duration(cfg.Shutdown.DrainDelay + cfg.Shutdown.Timeout); ends >= given {
		t.Errorf("the broker takes up to %v to end", ends)
	}
}
