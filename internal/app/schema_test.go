package app

import (
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/secretbroker/secretbroker/internal/devmode"
	"github.com/secretbroker/secretbroker/internal/strictyaml/schematest"
)

// TestSchemas: docs/schema has the schemas that the command prints, and they accept the files
// that secretbroker dev writes. make docs writes docs/schema.
func TestSchemas(t *testing.T) {
	env, err := devmode.Start(t.Context(), devmode.Options{
		Dir: t.TempDir(), Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0", VaultListen: "127.0.0.1:0",
		AWS: true, GoogleCloud: true, LocalFiles: true, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = env.Close() })
	integrations, err := filepath.Glob(filepath.Join(env.Dir, "integrations", "*.yaml"))
	if err != nil || len(integrations) < 4 {
		t.Fatalf("%v, %v", integrations, err)
	}
	for name, files := range map[string][]string{"configuration": {env.ConfigFile}, "integration": integrations} {
		code, schema, stderr := command(t, "schema", name)
		if code != exitOK {
			t.Fatalf("%d %s", code, stderr)
		}
		path := filepath.Join("../../docs/schema", name+".schema.json")
		if flag.Lookup("update").Value.String() == "true" {
			if err := os.WriteFile(path, []byte(schema), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if written, err := os.ReadFile(path); err != nil || string(written) != schema {
			t.Errorf("%s is not the current schema: run make docs (%v)", path, err)
		}
		v, err := schematest.New([]byte(schema))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := v.Validate(data); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
	if code, _, stderr := command(t, "schema", "other"); code != exitUsage || stderr == "" {
		t.Errorf("%d %s", code, stderr)
	}
}
