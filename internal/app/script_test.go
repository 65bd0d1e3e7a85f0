package app

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/cli"
	"github.com/secretbroker/secretbroker/internal/devmode"
	"github.com/secretbroker/secretbroker/internal/registry/seal"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"secretbroker":    func() { os.Exit(run()) },
		"watched-broker":  watchedBroker,
		"bare-broker":     bareBroker,
		"crashing-broker": crashingBroker,
		"peeking":         peeking,
	})
}

// TestScripts runs the sessions in testdata like a user would type them. A broker runs at the
// same time, and the environment has its address and files.
func TestScripts(t *testing.T) {
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			change := addLocalFiles
			name := filepath.Base(env.WorkDir)
			if strings.HasPrefix(name, "script-integration") {
				more := ""
				if name == "script-integration-placement" {
					more = placementRules
				}
				change = func(env *devmode.Environment) error { return inDatabase(env, more) }
			}
			kinds := name == "script-integration-kinds"
			b, err := startBrokerWith(context.Background(), devmode.Options{Dir: filepath.Join(env.WorkDir, "dev"), AWS: kinds, GoogleCloud: kinds}, change)
			if err != nil {
				return err
			}
			env.Defer(func() {
				if err := b.stop(); err != nil {
					t.Errorf("stop: %v", err)
				}
			})
			for name, value := range map[string]string{
				"SECRETBROKER_ADDR":      b.addr,
				"SECRETBROKER_CA_FILE":   b.CAFile,
				"SECRETBROKER_CERT_FILE": b.Worker.CertFile,
				"SECRETBROKER_KEY_FILE":  b.Worker.KeyFile,
				"OTHER_CERT":             b.OtherWorker.CertFile,
				"OTHER_KEY":              b.OtherWorker.KeyFile,
				"AUDITOR_CERT":           b.Auditor.CertFile,
				"AUDITOR_KEY":            b.Auditor.KeyFile,
				"OWNER_CERT":             b.Owner.CertFile,
				"OWNER_KEY":              b.Owner.KeyFile,
				"SECRETS_FILE":           b.SecretsFile,
				"EXAMPLES":               filepath.Join(repo, "examples"),
				"VAULT":                  "https://your-key-vault-name.vault.azure.net",
				// Under the race detector a command would wait a second before it exits.
				"GORACE": "atexit_sleep_ms=0",
			} {
				env.Setenv(name, value)
			}
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":   exits,
			"edit":    editFile,
			"example": example,
			"waitfor": waitFor,
			"hides":   hides,
			"start":   start,
			"stop":    stop,
		},
	})
}

// placementRules allow one of the sample workers to use integrations in westeurope.
const placementRules = `
validation: {every: 1m}
placement:
  clouds: [azure]
  regions: [westeurope, eastus]
  same: region
  caller_path: /connect/{region}
  callers:
    - {principals: [spiffe://example.org/connect/*], cloud: azure, region: westeurope}
    - {principals: [spiffe://example.org/other/*], cloud: azure, region: eastus}
`

// inDatabase makes the broker store its integrations in a database, which is empty at first,
// and leaves the sample in the directory "managed". It appends more to the configuration.
func inDatabase(env *devmode.Environment, more string) error {
	if err := edit(env.ConfigFile, "registry: {directory: {path: integrations/}}", "registry: {sqlite: {file: registry.db}, seal: {key_file: registry.key}, allowed_files: [keyvault-ca.pem, google-federation.json, local], max_integrations: 3}"+more); err != nil {
		return err
	}
	if err := seal.Create(filepath.Join(env.Dir, "registry.key")); err != nil {
		return err
	}
	sample, err := os.ReadFile(env.IntegrationFile)
	if err != nil {
		return err
	}
	dir := filepath.Join(env.Dir, "managed")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	// Paths in a database cannot be relative, because there is no directory.
	text := strings.Replace(string(sample), "../keyvault-ca.pem", env.KeyVaultCAFile, 1)
	return os.WriteFile(filepath.Join(dir, filepath.Base(env.IntegrationFile)), []byte(text), 0o600)
}

// addLocalFiles adds an integration with files of the broker's own machine.
func addLocalFiles(env *devmode.Environment) error {
	dir := filepath.Join(env.Dir, "local")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "kafka.properties"), []byte("user=connect\npassword=localPassw0rdExamp1e\n"), 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(env.Dir, "integrations", "cspi-local.yaml"), []byte(`id: cspi-local
kind: LOCAL_FILE
local: {directories: [../local]}
grants:
  - principals: [spiffe://example.org/connect/*]
    secrets: [kafka.properties]
`), 0o600)
}

// exits runs a command and expects its exit code: "exits 3 secretbroker resolve ...".
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

// editFile replaces text in a file: "edit FILE OLD NEW", "\n" in NEW being a new
// line.
func editFile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: edit FILE OLD NEW")
	}
	ts.Check(edit(ts.MkAbs(args[0]), args[1], strings.ReplaceAll(args[2], `\n`, "\n")))
}

// waitFor runs a command until its output contains a text: "waitfor TEXT broker
// ...".
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: waitfor TEXT COMMAND [ARG ...]")
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for {
		ts.Check(ts.Exec(args[1], args[2:]...))
		if strings.Contains(ts.ReadFile("stdout"), args[0]) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			ts.Fatalf("%q never appears in\n%s", args[0], ts.ReadFile("stdout"))
		}
	}
}

// started has the commands of "start" by their script and file.
var started sync.Map

// start starts a command and writes its output to FILE: "start FILE COMMAND [ARG ...]". It ends
// with the script.
func start(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: start FILE COMMAND [ARG ...]")
	}
	file := ts.MkAbs(args[0])
	out, err := os.Create(file)
	ts.Check(err)
	path, err := exec.LookPath(args[1])
	ts.Check(err)
	cmd := exec.Command(path, args[2:]...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = out, out, ts.MkAbs(".")
	cmd.Env = []string{"GORACE=" + ts.Getenv("GORACE"), "HOME=" + ts.Getenv("HOME")}
	for _, name := range []string{"ADDR", "CA_FILE", "CERT_FILE", "KEY_FILE"} {
		cmd.Env = append(cmd.Env, "SECRETBROKER_"+name+"="+ts.Getenv("SECRETBROKER_"+name))
	}
	ts.Check(cmd.Start())
	started.Store(file, cmd)
	ts.Defer(func() {
		if _, running := started.LoadAndDelete(file); running {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		_ = out.Close()
	})
}

// stop interrupts a command as Ctrl-C does, and expects that it ends with the exit code 0:
// "stop FILE".
func stop(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: stop FILE")
	}
	cmd, running := started.LoadAndDelete(ts.MkAbs(args[0]))
	if !running {
		ts.Fatalf("%s: not started", args[0])
	}
	ts.Check(cmd.(*exec.Cmd).Process.Signal(os.Interrupt))
	if err := cmd.(*exec.Cmd).Wait(); err != nil {
		ts.Fatalf("%v: %s", err, ts.ReadFile(args[0]))
	}
}

// hides fails if FILE contains the content of SECRET: "hides SECRET FILE".
func hides(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: hides SECRET FILE")
	}
	text := strings.TrimSpace(ts.ReadFile(args[0]))
	if text == "" || strings.Contains(ts.ReadFile(args[1]), text) {
		ts.Fatalf("%s contains the content of %s", args[1], args[0])
	}
}

// example runs check and resolve on a sample and expects the result: "ok", the reason or
// warning of every config that has one, or INVALID_FILE. "example FILE EXPECTED [FLAG ...]".
func example(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: example FILE EXPECTED [FLAG ...]")
	}
	file, want := filepath.Join(ts.Getenv("EXAMPLES"), args[0]), args[1]
	code := cli.ExitCodeOfReason(client.Reason(want))
	switch want {
	case "ok", cli.WarnEmptyValue:
		code = exitOK
	case cli.FaultInvalidFile:
		code = exitUsage
	}
	flags := append(args[2:], "--file", file)
	run := func(command ...string) (stdout, all string) {
		exits(ts, false, slices.Concat([]string{strconv.Itoa(code), "secretbroker"}, command, flags))
		stdout = ts.ReadFile("stdout")
		all = stdout + ts.ReadFile("stderr")
		for _, value := range []string{"Passw0rd", "battery", "dbadmin", "Tr0ub"} {
			if strings.Contains(all, value) {
				ts.Fatalf("broker %s shows a value", command[0])
			}
		}
		return stdout, all
	}
	stdout, _ := run("check", "--output", "json")
	var got cli.CheckJSON
	ts.Check(json.Unmarshal([]byte(stdout), &got))
	if got.OK != (code == exitOK) || len(got.Files) != 1 || got.Files[0].File != file {
		ts.Fatalf("check does not report on the file")
	}
	found := map[string]bool{}
	if e := got.Files[0].Error; e != nil {
		found[e.Reason] = e.Line > 0
	}
	for _, c := range got.Files[0].Configs {
		if c.Error != nil {
			found[c.Error.Reason] = c.Line > 0
		}
		for _, w := range c.Warnings {
			found[w.Warning] = c.Line > 0
		}
	}
	if want == "ok" && len(found) > 0 || want != "ok" && (len(found) != 1 || !found[want]) {
		ts.Fatalf("check found %v (true: with its line), want %s", found, want)
	}
	if _, all := run("resolve"); code != exitOK && want != cli.FaultInvalidFile && !strings.Contains(all, want) {
		ts.Fatalf("resolve does not say %s", want)
	}
}

// Every sample configuration in examples/ must be listed in testdata/examples.txt. The other
// folders there are programs.
func TestNoExampleIsLeftOut(t *testing.T) {
	script, err := os.ReadFile("testdata/examples.txt")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = fs.WalkDir(os.DirFS("../../examples"), ".", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && path != "." && path != "faults" {
			return fs.SkipDir
		}
		if err != nil || entry.IsDir() || filepath.Ext(path) == ".go" {
			return err
		}
		n++
		if !strings.Contains(string(script), "\nexample "+path+" ") {
			t.Errorf("testdata/examples.txt has no result for examples/%s", path)
		}
		return nil
	})
	if err != nil || n == 0 {
		t.Errorf("%d examples, %v", n, err)
	}
}
