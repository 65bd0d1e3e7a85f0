//go:build syncdelay

package audit

import (
	"path/filepath"
	"testing"
	"time"
)

// Run it with: go test -tags syncdelay ./internal/audit -run TestSyncDelay
func TestSyncDelay(t *testing.T) {
	before := syncDelay
	syncDelay = 20 * time.Millisecond
	t.Cleanup(func() { syncDelay = before })
	l, err := Open(Config{Path: filepath.Join(t.TempDir(), "audit.jsonl"), Sync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	if err := l.Write(t.Context(), []Event{{RequestID: "1", Outcome: Served}}); err != nil {
		t.Fatal(err)
	}
	if took := l.Stats().WriteTime; took < syncDelay {
		t.Errorf("the commit took %v, want at least %v", took, syncDelay)
	}
}
