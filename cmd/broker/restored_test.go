package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore"
)

// documentWith is an integration with grants to these principals.
func documentWith(id string, principals ...string) []byte {
	text := "id: " + id + "\nkind: AZURE_KEY_VAULT\nazure: {credential: {type: managed_identity}, vaults: [https://abc.vault.azure.net]}\ngrants:\n"
	for _, p := range principals {
		text += "  - {principals: ['" + p + "']}\n"
	}
	return []byte(text)
}

// TestRestoresAreRecordedLater: records that the audit log does not take are written
// once it takes them, each once.
func TestRestoresAreRecordedLater(t *testing.T) {
	r := newRestores(slog.New(slog.DiscardHandler))
	var many []string
	for i := range 2000 {
		many = append(many, fmt.Sprintf("dns:w%d.example.org", i))
	}
	restored := sqlstore.Restored{Known: true, Was: sqlstore.Position{Revision: 9}, Is: sqlstore.Position{Revision: 5}}
	for i := range 200 {
		restored.Reversals = append(restored.Reversals, sqlstore.Reversal{ID: fmt.Sprintf("i%03d", i), Before: documentWith("a"), After: documentWith("a", "dns:w.example.org")})
	}
	restored.Reversals = append(restored.Reversals, sqlstore.Reversal{ID: "large", Before: documentWith("large"), After: documentWith("large", many...)})
	r.note(restored)
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	open := func() *audit.Log {
		t.Helper()
		l, err := audit.Open(audit.Config{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	closed := open()
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	r.write(t.Context(), closed)
	log := open()
	defer log.Close()
	r.write(t.Context(), log)
	r.write(t.Context(), log)
	text := readFile(path)
	if n := strings.Count(text, `"method":"RegistryRestored"`); n != 202 {
		t.Errorf("%d records", n)
	}
	if !strings.Contains(text, "201 integration(s) differ: 2200 grant(s) are in force again, 0 integration(s) came back, 0 are gone") {
		t.Errorf("no summary: %.500s", text)
	}
	if line := lineWith(text, `"integration":"large"`); !strings.Contains(line, "more") || len(line) > 600_000 {
		t.Errorf("a record of %d bytes", len(line))
	}
}

// TestPositionFile: a start knows what was seen of the same database, and nothing
// that cannot be read keeps the broker from starting.
func TestPositionFile(t *testing.T) {
	dir := t.TempDir()
	var log syncBuffer
	cfg := &config.Config{}
	cfg.Audit.File = filepath.Join(dir, "audit.jsonl")
	cfg.Registry.SQLite.File = filepath.Join(dir, "r.db")
	if err := os.WriteFile(cfg.Audit.File, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	file := func() *positionFile { return newPositionFile(cfg, slog.New(slog.NewTextHandler(&log, nil))) }
	none, seen := sqlstore.Position{}, sqlstore.Position{Revision: 7, Stamp: "seven"}
	if got := file().read(); got != none {
		t.Errorf("at first: %+v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	file().run(ctx, func() sqlstore.Position { return seen })
	if got := file().read(); got != seen {
		t.Errorf("after a stop: %+v", got)
	}
	path := cfg.Audit.File + ".registry"
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	cfg.Registry.SQLite.File = filepath.Join(dir, "other.db")
	if got := file().read(); got != none {
		t.Errorf("of another database: %+v", got)
	}
	if log.String() != "" {
		t.Errorf("log: %s", log.String())
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := file().read(); got != none || !strings.Contains(log.String(), "goes unnoticed") {
		t.Errorf("damaged: %+v\n%s", got, log.String())
	}
	cfg.Audit.File = audit.Stdout
	file().run(ctx, func() sqlstore.Position { return seen }) // writes nothing
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("%v, %v", entries, err)
	}
}
