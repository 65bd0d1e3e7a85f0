package devmode_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/secretbroker/secretbroker/internal/devmode"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestLocal: Start writes the sample, its reference can be parsed, and a second Start keeps
// the user's edits.
func TestLocal(t *testing.T) {
	dir := t.TempDir()
	for _, want := range []string{"", "edited"} {
		env, err := devmode.Start(t.Context(), devmode.Options{Dir: dir, VaultListen: "127.0.0.1:0", LocalFiles: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := env.Close(); err != nil {
			t.Fatal(err)
		}
		r, err := secret.ParseRef(env.Local.Reference)
		if err != nil || r.Store != "file://"+filepath.Join(dir, "local") || r.Key != "password" {
			t.Errorf("%q: %+v, %v", env.Local.Reference, r, err)
		}
		if _, err := os.Stat(env.Local.IntegrationFile); err != nil {
			t.Error(err)
		}
		content, err := os.ReadFile(env.Local.File)
		if err != nil || want != "" && string(content) != want {
			t.Errorf("%q, %v", content, err)
		}
		if err := os.WriteFile(env.Local.File, []byte("edited"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLocalWithoutAName(t *testing.T) {
	env, err := devmode.Start(t.Context(), devmode.Options{Dir: filepath.Join(t.TempDir(), "a#b"), VaultListen: "127.0.0.1:0", LocalFiles: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = env.Close() }()
	if env.Local != nil {
		t.Error("a reference with characters that references cannot have")
	}
}
