package sqlstore

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/registry"
)

// TestPositionFile: a start knows the position that was seen in the same database, and an
// unreadable file does not prevent the start.
func TestPositionFile(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	path, database := filepath.Join(dir, "audit.jsonl.registry"), filepath.Join(dir, "r.db")
	file := func() *PositionFile {
		return NewPositionFile(path, database, slog.New(slog.NewTextHandler(&log, nil)))
	}
	none, seen := registry.Position{}, registry.Position{Revision: 7, Stamp: "seven"}
	if got := file().Read(); got != none {
		t.Errorf("at first: %+v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	file().Run(ctx, func() registry.Position { return seen })
	if got := file().Read(); got != seen {
		t.Errorf("after a stop: %+v", got)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	database = filepath.Join(dir, "other.db")
	if got := file().Read(); got != none {
		t.Errorf("of another database: %+v", got)
	}
	if log.String() != "" {
		t.Errorf("log: %s", log.String())
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := file().Read(); got != none || !strings.Contains(log.String(), "would not be detected") {
		t.Errorf("damaged: %+v\n%s", got, log.String())
	}
	path = ""
	file().Run(ctx, func() registry.Position { return seen }) // writes nothing
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}
