//go:build unix

package app

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/devmode"
	"github.com/secretbroker/secretbroker/internal/registry/seal"
)

var computed = regexp.MustCompile(`^[0-9a-f]{32}$`)

// TestVersionKeyInTheDatabase: with a database and a sealing key, brokers compute the same
// versions without a file. Without the sealing key, or with another one, they compute none
// and keep the key.
func TestVersionKeyInTheDatabase(t *testing.T) {
	databases(t, func(t *testing.T, db *testDatabase) {
		dir := t.TempDir()
		files := filepath.Join(dir, "files")
		if err := os.Mkdir(files, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(files, "token"), []byte("canary"), 0o600); err != nil {
			t.Fatal(err)
		}
		version := func(keyFile string) string {
			t.Helper()
			b, err := startBroker(context.Background(), dir, func(env *devmode.Environment) error {
				entry := db.entry + ", allowed_files: [files]"
				if keyFile != "" {
					entry += ", seal: {key_file: " + keyFile + "}"
				}
				if err := edit(env.ConfigFile, "version_key_file: version.key, ", ""); err != nil {
					return err
				}
				return edit(env.ConfigFile, "registry: {directory: {path: integrations/}}", "registry: {"+entry+"}")
			})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = b.stop() }()
			owner := b.as(t, b.Owner)
			in := &client.Integration{ID: "local", Kind: "LOCAL_FILE", Settings: map[string]any{"directories": []any{files}}, Grants: []client.Grant{grantTo(b.Worker.ID)}}
			if _, err := owner.GetIntegration(t.Context(), client.GetIntegrationRequest{IntegrationID: "local"}); err != nil {
				if _, err := owner.CreateIntegration(t.Context(), client.CreateIntegrationRequest{Integration: in}); err != nil {
					t.Fatal(err)
				}
			}
			res, err := b.as(t, b.Worker).Resolve(t.Context(), client.ResolveRequest{IntegrationID: "local", MaxAge: new(time.Duration), Configs: map[string]string{"p": "file://" + files + "::token"}})
			if err != nil {
				t.Fatal(err)
			}
			return res.Values["p"].Version
		}
		other := filepath.Join(dir, "other.key")
		if err := seal.Create(other); err != nil {
			t.Fatal(err)
		}
		first := version(db.keyFile)
		if !computed.MatchString(first) {
			t.Errorf("the version is %q", first)
		}
		for _, without := range []string{"", other} {
			if got := version(without); computed.MatchString(got) {
				t.Errorf("with the sealing key %q the version is %q", without, got)
			}
		}
		if again := version(db.keyFile); again != first {
			t.Errorf("after restarts the version is %q, was %q", again, first)
		}
	})
}
