package kinds

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/azurekv"
)

func TestDocumentsNameNoFiles(t *testing.T) {
	dir := t.TempDir()
	there, absent := filepath.Join(dir, "there"), filepath.Join(dir, "absent")
	put(t, there, "s3cret")
	faults := map[string]string{}
	for name, path := range map[string]string{"there": there, "absent": absent} {
		p := All().ParseDocument([]byte(withSecret("a", path)), integration.DocumentConfig{})
		if p.Integration != nil || len(p.Faults) != 1 {
			t.Fatalf("%s: %+v", name, p)
		}
		faults[name] = p.Faults[0].Text
	}
	if faults["there"] != faults["absent"] || !strings.Contains(faults["there"], "registry.allowed_files") {
		t.Errorf("faults tell files that are there from those that are not: %q", faults)
	}
	p := All().ParseDocument([]byte(withSecret("a", there)), integration.DocumentConfig{Files: []string{dir}})
	if p.Integration == nil || p.FilesSum == "" || p.Integration.Settings.(*azurekv.Settings).Credential.ClientSecretFile != there {
		t.Errorf("a file that may be named: %+v", p)
	}
	if p := All().ParseDocument([]byte(withSecret("a", absent)), integration.DocumentConfig{Files: []string{dir}}); p.Integration != nil {
		t.Error("a file that is not there was accepted")
	}
	if p := All().ParseDocument([]byte(withSecret("a", "there")), integration.DocumentConfig{Files: []string{dir}}); p.Integration != nil {
		t.Error("a relative path was accepted")
	}
}

// A file takes precedence over a stored credential, which the document then does not
// use.
func TestFileBeforeCredential(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	put(t, file, "s3cret")
	c := integration.DocumentConfig{
		Files:       []string{file},
		Credentials: map[string]integration.Credential{"azure.credential.client_secret": func(context.Context) ([]byte, error) { return []byte("x"), nil }},
	}
	if p := All().ParseDocument([]byte(withSecret("a", file)), c); p.Integration == nil || len(p.Used) != 0 || len(p.Integration.Credentials) != 0 {
		t.Errorf("%+v", p)
	}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
