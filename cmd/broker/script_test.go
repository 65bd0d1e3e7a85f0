package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"broker": func() { os.Exit(run()) },
	})
}

// TestScripts runs the sessions in testdata as a user would type them, beside a
// running broker whose address and files are in the environment.
func TestScripts(t *testing.T) {
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			b, err := startBroker(context.Background(), filepath.Join(env.WorkDir, "dev"), nil)
			if err != nil {
				return err
			}
			env.Defer(func() {
				if err := b.stop(); err != nil {
					t.Errorf("stop: %v", err)
				}
			})
			for name, value := range map[string]string{
				"SECRETBROKER_ADDR": b.addr,
				"SECRETBROKER_CA":   b.CAFile,
				"SECRETBROKER_CERT": b.Worker.CertFile,
				"SECRETBROKER_KEY":  b.Worker.KeyFile,
				"OTHER_CERT":        b.OtherWorker.CertFile,
				"OTHER_KEY":         b.OtherWorker.KeyFile,
				"AUDITOR_CERT":      b.Auditor.CertFile,
				"AUDITOR_KEY":       b.Auditor.KeyFile,
				"SECRETS_FILE":      b.SecretsFile,
				"EXAMPLES":          filepath.Join(repo, "examples"),
				"VAULT":             "https://your-key-vault-name.vault.azure.net",
			} {
				env.Setenv(name, value)
			}
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits,
			"edit":  editFile,
		},
	})
}

// exits runs a command and expects its exit code: "exits 3 broker resolve ...".
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND [ARG ...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// editFile replaces text in a file: "edit FILE OLD NEW".
func editFile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: edit FILE OLD NEW")
	}
	ts.Check(edit(ts.MkAbs(args[0]), args[1], args[2]))
}
