package cli

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/server/nextrelease"
)

var update = flag.Bool("update", false, "rewrite the golden files of the JSON output; only add to them")

// onlineCommands are commands that call a broker and print JSON, by the name of their
// golden file. A finding is a result that a script should look at, not a failure.
var onlineCommands = []struct {
	name    string
	args    []string
	finding int // the exit code if the broker's answer has an error for a config
}{
	{"resolve", []string{"resolve", "--integration", "prod", "--allow-partial", "--reveal", "database.password=https://my-vault.vault.azure.net::db-secret"}, exit.NotFound},
	{"check", []string{"check", "--integration", "prod", "database.password=https://my-vault.vault.azure.net::db-secret"}, exit.NotFound},
	{"watch", []string{"watch", "--once", "--integration", "prod", "database.password=https://my-vault.vault.azure.net::db-secret"}, exit.NotFound},
	{"refresh", []string{"refresh", "--integration", "prod", "database.password=https://my-vault.vault.azure.net::db-secret"}, exit.NotFound},
	{"explain", []string{"explain", "--principal", "spiffe://example.org/connect/worker-1", "https://my-vault.vault.azure.net::db-secret"}, exit.OK},
	{"integration-list", []string{"integration", "list"}, exit.OK},
	{"integration-describe", []string{"integration", "describe", "prod"}, exit.OK},
	{"integration-validate", []string{"integration", "validate", "prod"}, exit.OK},
	{"integration-delete", []string{"integration", "delete", "prod"}, exit.OK},
	{"usage", []string{"usage", "--outdated"}, exit.OK},
	{"integration-grant", []string{"integration", "grant", "prod", "--principal", "dns:a.example.org"}, exit.OK},
}

func connectFlags(b *nextrelease.Broker) []string {
	return []string{"--addr", b.Addr, "--ca", b.CAFile, "--cert", b.CertFile, "--key", b.KeyFile}
}

// TestJSONOutput compares the JSON output of each command for an answer with every field
// with a golden file: scripts depend on the names. -update rewrites the files; members may
// only be added.
func TestJSONOutput(t *testing.T) {
	b := nextrelease.Start(t, nextrelease.Options{})
	for _, tt := range onlineCommands {
		t.Run(tt.name, func(t *testing.T) {
			output, code := run(t, slices.Concat(tt.args, []string{"-o", "json"}, connectFlags(b))...)
			if code != tt.finding {
				t.Errorf("exit code %d, want %d", code, tt.finding)
			}
			document := output[strings.Index(output, "{"):]
			if i := strings.Index(output, "["); i >= 0 && i < strings.Index(output, "{") {
				document = output[i:]
			}
			dec := json.NewDecoder(strings.NewReader(document))
			var first json.RawMessage
			if err := dec.Decode(&first); err != nil {
				t.Fatalf("%v: %s", err, output)
			}
			var indented bytes.Buffer
			if err := json.Indent(&indented, first, "", "  "); err != nil {
				t.Fatal(err)
			}
			indented.WriteByte('\n')
			path := filepath.Join("testdata", "json", tt.name+".json")
			if *update {
				if err := os.WriteFile(path, indented.Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got := indented.String(); got != string(want) {
				t.Errorf("the JSON output has changed; scripts depend on it\n got: %s\nwant: %s", got, want)
			}
		})
	}
}

// TestCommandsAgainstTheNextRelease: the commands show what they know of answers with
// fields, enum values and reasons of the next release.
func TestCommandsAgainstTheNextRelease(t *testing.T) {
	b := nextrelease.Start(t, nextrelease.Options{Next: true})
	for _, tt := range onlineCommands {
		for _, format := range []string{"json", "table"} {
			t.Run(tt.name+"/"+format, func(t *testing.T) {
				output, code := run(t, slices.Concat(tt.args, []string{"-o", format}, connectFlags(b))...)
				want := exit.OK
				if tt.finding != exit.OK { // a reason that this release does not know
					want = exit.Failure
				}
				if tt.name == "watch" { // a notice whose state this release does not know is ignored
					if code != exit.OK || strings.Contains(output, "database.password") {
						t.Errorf("exit code %d: %s", code, output)
					}
					return
				}
				if tt.name == "integration-validate" { // a state that this release does not know is no success
					want = exit.Precondition
				}
				if code != want {
					t.Errorf("exit code %d, want %d: %s", code, want, output)
				}
				if !strings.Contains(output, "prod") && !strings.Contains(output, "database.password") {
					t.Errorf("it shows nothing: %s", output)
				}
			})
		}
	}
}

// TestFailuresOfTheNextRelease: every command reports a reason that it does not know with the
// broker's message, and ends with the code for other failures.
func TestFailuresOfTheNextRelease(t *testing.T) {
	b := nextrelease.Start(t, nextrelease.Options{Next: true, Fail: true})
	for _, tt := range onlineCommands {
		t.Run(tt.name, func(t *testing.T) {
			output, code := run(t, slices.Concat(tt.args, connectFlags(b))...)
			if code == exit.OK || code == exit.Usage {
				t.Errorf("exit code %d: %s", code, output)
			}
			if !strings.Contains(output, "a failure of the next release") {
				t.Errorf("the message is missing: %s", output)
			}
		})
	}
}
