package app

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// hangupPackage is the name of the package in the Go runtime's trace of package
// initialization (GODEBUG=inittrace=1), which has one line per initialized package.
const hangupPackage = "init github.com/secretbroker/secretbroker/internal/app/internal/hangup @"

// TestHangupWhileStarting sends SIGHUP to starting brokers, from the initialization of the
// first packages on. None of them ends, and each becomes ready.
func TestHangupWhileStarting(t *testing.T) {
	env := newEnvironment(t)
	starts := 20
	if testing.Short() {
		starts = 3
	}
	for n := range starts {
		hangUpEarly(t, env.ConfigFile, n)
	}
}

// hangUpEarly starts a broker, lets it initialize n more packages after package
// hangup, and then sends SIGHUP after every line that it prints until it is ready.
func hangUpEarly(t *testing.T, configFile string, n int) {
	t.Helper()
	cmd := exec.Command("secretbroker", "serve", "--log-format", "json", "--config", configFile) // see TestMain
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1", "GORACE=atexit_sleep_ms=0")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	before, guarded, ready := 0, false, false
	for lines := bufio.NewScanner(stderr); !ready && lines.Scan(); {
		line := lines.Text()
		text.WriteString(line + "\n")
		guarded = guarded || strings.HasPrefix(line, hangupPackage)
		if !guarded {
			before++
			continue
		}
		if n--; n <= 0 {
			if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatalf("the broker ended: %v\n%s", err, text.String())
			}
		}
		var entry struct{ Msg string }
		ready = json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "ready"
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if !ready {
		t.Fatalf("the broker did not become ready: %v\n%s", cmd.ProcessState, text.String())
	}
	// Some 300 packages are initialized before main.
	if before > 60 {
		t.Errorf("%d packages are initialized before SIGHUP is handled; package hangup has an import that is initialized late", before)
	}
}
