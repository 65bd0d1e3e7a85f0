package history

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry"
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
	r := NewRestores(kinds.All(), slog.New(slog.DiscardHandler))
	var many []string
	for i := range 2000 {
		many = append(many, fmt.Sprintf("dns:w%d.example.org", i))
	}
	restored := registry.Restored{Known: true, Was: registry.Position{Revision: 9}, Is: registry.Position{Revision: 5}}
	for i := range 200 {
		restored.Reversals = append(restored.Reversals, registry.Reversal{ID: fmt.Sprintf("i%03d", i), Before: documentWith("a"), After: documentWith("a", "dns:w.example.org")})
	}
	restored.Reversals = append(restored.Reversals, registry.Reversal{ID: "large", Before: documentWith("large"), After: documentWith("large", many...)})
	r.Note(restored)
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
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	if n := strings.Count(text, `"method":"RegistryRestored"`); n != 202 {
		t.Errorf("%d records", n)
	}
	if !strings.Contains(text, "201 integration(s) differ: 2200 grant(s) are in force again, 0 integration(s) came back, 0 are gone") {
		t.Errorf("no summary: %.500s", text)
	}
	line := ""
	for l := range strings.Lines(text) {
		if strings.Contains(l, `"integration_id":"large"`) {
			line = l
		}
	}
	if !strings.Contains(line, "more") || len(line) > 600_000 {
		t.Errorf("a record of %d bytes", len(line))
	}
}
