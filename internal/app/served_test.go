package app

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// served is "secretbroker serve" in a separate process. The test runs the Key Vault.
type served struct {
	*devmode.Environment
	cmd         *exec.Cmd
	log, out    asynctest.Buffer // standard error and standard output
	addr, admin string
	exited      chan struct{}
	err         error // of Wait, once exited is closed
}

func newEnvironment(t *testing.T) *devmode.Environment {
	t.Helper()
	env, err := devmode.Start(t.Context(), devmode.Options{
		Dir: t.TempDir(), Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0", VaultListen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { env.Close() })
	return env
}

// startServed starts a broker and waits until it is ready.
func startServed(t *testing.T, env *devmode.Environment, configFile string, environ ...string) *served {
	t.Helper()
	s := &served{Environment: env, exited: make(chan struct{})}
	s.cmd = exec.Command("secretbroker", "serve", "--log-format", "json", "--config", configFile) // see TestMain
	s.cmd.Env = append(append(os.Environ(), "GORACE=atexit_sleep_ms=0"), environ...)
	s.cmd.Stdout = &s.out
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	go func() {
		defer close(s.exited)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			fmt.Fprintln(&s.log, lines.Text())
			var line struct {
				Msg, Listen string
				Admin       string `json:"admin_listen"`
			}
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "ready" {
				s.addr, s.admin = line.Listen, line.Admin
				close(ready)
			}
		}
		s.err = s.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		<-s.exited
	})
	select {
	case <-ready:
	case <-s.exited:
		t.Fatalf("the broker did not start: %v\n%s", s.err, s.log.String())
	}
	return s
}

func (s *served) signal(t *testing.T, sig os.Signal) {
	t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// client returns a client with the given number of attempts.
func (s *served) client(t *testing.T, attempts int) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{
		Addrs: []string{s.addr}, CAFile: s.CAFile, CertFile: s.Worker.CertFile, KeyFile: s.Worker.KeyFile,
		MaxAttempts: attempts, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// readyz returns the answer of /readyz, "" if it cannot be reached.
func (s *served) readyz() (code int, body string) {
	res, err := http.Get("http://" + s.admin + "/readyz")
	if err != nil {
		return 0, ""
	}
	defer res.Body.Close()
	data, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(data)
}

var sample = request("p", vault+"::sqlserver-db-secret::password")

// set replaces the line of a setting in secretbroker.yaml.
func set(t *testing.T, configFile, name, value string) {
	t.Helper()
	lines := strings.Split(readFile(configFile), "\n")
	lines = slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, name+":") })
	if err := replace(configFile, strings.Join(append(lines, name+": "+value), "\n")); err != nil {
		t.Fatal(err)
	}
}
