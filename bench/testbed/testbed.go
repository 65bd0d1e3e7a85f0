// Package testbed is what the measurements share: a real broker process with an
// embedded Key Vault on loopback, an authority for callers' certificates, and a
// look at what a process uses.
//
// It measures nothing itself and is no part of the product.
package testbed

import (
	"bufio"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/secretbroker/secretbroker/internal/devmode"
)

// Process is a server that runs until Stop.
type Process struct {
	// Addr and AdminAddr are where it answers.
	Addr, AdminAddr string
	cmd             *exec.Cmd
}

// Start runs a command, held to the CPUs of pin if that is not empty, and waits
// until it logs a JSON line with the message "ready" and its addresses.
func Start(pin string, env []string, command ...string) (*Process, error) {
	return StartUntil(pin, env, func(text string, p *Process) bool {
		var line struct {
			Msg, Level, Listen string
			AdminListen        string `json:"admin_listen"`
		}
		if json.Unmarshal([]byte(text), &line) != nil || line.Msg != "ready" {
			if line.Level != "INFO" {
				fmt.Fprintln(os.Stderr, command[0]+":", text)
			}
			return false
		}
		p.Addr, p.AdminAddr = line.Listen, line.AdminListen
		return true
	}, command...)
}

// StartUntil is Start for a command that says otherwise when it is ready: ready
// gets each line that it prints, fills in the addresses and returns true.
func StartUntil(pin string, env []string, ready func(line string, p *Process) bool, command ...string) (*Process, error) {
	if pin != "" {
		command = append([]string{"taskset", "-c", pin}, command...)
	}
	p := &Process{cmd: exec.Command(command[0], command[1:]...)} //nolint:gosec,noctx // our own programs, ended by Stop
	p.cmd.Env = append(os.Environ(), env...)
	if _, err := p.cmd.StdinPipe(); err != nil { // open until Stop: some end with it
		return nil, err
	}
	output, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stdout, p.cmd.Stderr = writer, writer
	err = p.cmd.Start()
	_ = writer.Close() // the process has its own
	if err != nil {
		return nil, errors.Join(err, output.Close())
	}
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		if ready(lines.Text(), p) {
			go func() { // until the process ends
				_, _ = io.Copy(io.Discard, output)
				_ = output.Close() // of no more use
			}()
			return p, nil
		}
	}
	return nil, errors.Join(errors.New("the process did not become ready"), p.cmd.Wait(), output.Close())
}

// Pid is the process's number.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// stopTime is how long a process may take to end before it is killed.
const stopTime = time.Minute

// Stop ends the process and says if it did not end well.
func (p *Process) Stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // Wait tells if it has gone
	kill := time.AfterFunc(stopTime, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	err := p.cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if how, ok := exit.Sys().(syscall.WaitStatus); ok && how.Signal() == syscall.SIGTERM {
			return nil // one that has nothing to do first
		}
	}
	if err != nil {
		return fmt.Errorf("a process did not end well: %w", err)
	}
	return nil
}

// Build builds a command of this module into dir and returns the binary.
func Build(ctx context.Context, dir, pkg string, flags ...string) (string, error) {
	out := filepath.Join(dir, filepath.Base(pkg))
	args := append(append([]string{"build"}, flags...), "-o", out, "github.com/secretbroker/secretbroker/"+pkg)
	build := exec.CommandContext(ctx, "go", args...) //nolint:gosec // to a directory of ours
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return "", fmt.Errorf("build %s: %w", pkg, err)
	}
	return out, nil
}

// World is a directory with what a broker needs, and the embedded Key Vault that
// runs in this process.
type World struct {
	Env *devmode.Environment
	// Clients issues the certificates of callers; Config trusts it.
	Clients *Authority
	dir     string
}

// NewWorld makes a World in a temporary directory.
func NewWorld(ctx context.Context) (w *World, err error) {
	w = &World{}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
		}
	}()
	if w.dir, err = os.MkdirTemp("", "secretbroker-bench-"); err != nil {
		return nil, err
	}
	w.Env, err = devmode.Start(ctx, devmode.Options{
		Dir: filepath.Join(w.dir, "dev"), Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0", VaultListen: "127.0.0.1:0",
	})
	if err != nil {
		return nil, err
	}
	if w.Clients, err = NewAuthority(); err != nil {
		return nil, err
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.Clients.cert.Raw})
	return w, os.WriteFile(w.ClientCAFile(), block, 0o600)
}

// Dir is a directory for whatever goes with the World.
func (w *World) Dir() string { return w.dir }

// ServerCertFile is the certificate of servers; clients check it by Env.CAFile.
func (w *World) ServerCertFile() string { return filepath.Join(w.Env.Dir, "server.pem") }

// ServerKeyFile goes with ServerCertFile.
func (w *World) ServerKeyFile() string { return filepath.Join(w.Env.Dir, "server-key.pem") }

// ClientCAFile is what servers check clients by.
func (w *World) ClientCAFile() string { return filepath.Join(w.Env.Dir, "clients-ca.pem") }

// Config writes a broker.yaml with so much added to it and returns its path.
func (w *World) Config(name, more string) (string, error) {
	return w.ConfigFor(name, "integrations/", more)
}

// ConfigFor is Config with the integrations of another directory.
func (w *World) ConfigFor(name, integrations, more string) (string, error) {
	path := filepath.Join(w.Env.Dir, name)
	return path, os.WriteFile(path, fmt.Appendf(nil, `
listen: 127.0.0.1:0
admin_listen: 127.0.0.1:0
tls: {cert_file: server.pem, key_file: server-key.pem, client_ca_file: clients-ca.pem}
integrations: %s
audit: {file: audit.jsonl}
shutdown: {drain_delay: 0s}
%s
`, integrations, more), 0o600)
}

// Close stops the Key Vault and removes the directory.
func (w *World) Close() error {
	var err error
	if w.Env != nil {
		err = w.Env.Close()
	}
	if w.dir != "" {
		err = errors.Join(err, os.RemoveAll(w.dir))
	}
	return err
}
