package operator

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTableShowsEveryRecord: the table shows what each type of record is about.
func TestTableShowsEveryRecord(t *testing.T) {
	want := map[string]string{
		"access_denied":        "https://",
		"access_rejected":      "",
		"access_served":        "https://",
		"access_watched":       "Watch https://my-vault.vault.azure.net::sqlserver-db-secret, 1 more",
		"management_attempted": "GrantUse grants",
		"management_changed":   "GrantUse",
		"management_explained": "Explain https://",
		"refusals":             "42 more refusals",
		"restore":              "RegistryRestored the integration came back",
	}
	files, err := filepath.Glob("../../audit/testdata/*.golden")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".golden")
		if name == "segment" {
			continue // describes the log, and is no event
		}
		text, known := want[name]
		if !known {
			t.Errorf("%s: a new kind of record; add what the table shows", name)
		}
		var out strings.Builder
		cmd := newAuditQueryCommand()
		cmd.SetArgs([]string{file})
		cmd.SetOut(&out)
		cmd.SetErr(os.Stderr)
		if err := cmd.Execute(); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != 2 || !strings.Contains(lines[1], text) {
			t.Errorf("%s: got %s, want a row with %q", name, out.String(), text)
		}
	}
}
