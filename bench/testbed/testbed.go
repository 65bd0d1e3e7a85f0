// Package testbed has the common parts of the measurements: a broker process with an embedded
// Key Vault on loopback, an authority for callers' certificates, and the resource usage of
// processes.
//
// It makes no measurements itself and is not part of the product.
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
	// Addr and AdminAddr are the addresses of the server.
	Addr, AdminAddr string
	cmd             *exec.Cmd
}

// Start starts a command, on the CPUs of pin if it is not empty, and waits until the command
// logs a JSON line with the message "ready" and its addresses.
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

// StartUntil is Start for a command with another log line: ready is called for each line of
// output; it sets the addresses and returns true when the command is ready.
func StartUntil(pin string, env []string, ready func(line string, p *Process) bool, command ...string) (*Process, error) {
	if pin != "" {
		command = append([]string{"taskset", "-c", pin}, command...)
	}
	p := &Process{cmd: exec.Command(command[0], command[1:]...)} //nolint:gosec,noctx // our own programs, ended by Stop
	p.cmd.Env = append(os.Environ(), env...)
	if _, err := p.cmd.StdinPipe(); err != nil { // open until Stop: some processes end when it is closed
		return nil, err
	}
	output, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stdout, p.cmd.Stderr = writer, writer
	err = p.cmd.Start()
	_ = writer.Close() // the process has its own handle
	if err != nil {
		return nil, errors.Join(err, output.Close())
	}
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		if ready(lines.Text(), p) {
			go func() { // ends with the process
				_, _ = io.Copy(io.Discard, output)
				_ = output.Close() // no longer needed
			}()
			return p, nil
		}
	}
	return nil, errors.Join(errors.New("the process did not become ready"), p.cmd.Wait(), output.Close())
}

// Pid returns the process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// stopTime is the time that a process has to end before it is killed.
const stopTime = time.Minute

// Stop ends the process. It returns an error if the process failed.
func (p *Process) Stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // Wait reports if the process has ended
	kill := time.AfterFunc(stopTime, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	err := p.cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if how, ok := exit.Sys().(syscall.WaitStatus); ok && how.Signal() == syscall.SIGTERM {
			return nil // a process without a handler for the signal
		}
	}
	if err != nil {
		return fmt.Errorf("a process failed at its end: %w", err)
	}
	return nil
}

// Build builds a command of this module into dir and returns the binary's path.
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

// World is a directory with the files that a broker needs, and an embedded Key Vault that runs
// in this process.
type World struct {
	Env *devmode.Environment
	// Clients issues the certificates of callers; Config trusts it.
	Clients *Authority
	dir     string
}

// NewWorld creates a World in a temporary directory.
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

// Dir returns the directory of the World.
func (w *World) Dir() string { return w.dir }

// ServerCertFile is the certificate of servers; clients verify it with Env.CAFile.
func (w *World) ServerCertFile() string { return filepath.Join(w.Env.Dir, "server.pem") }

// ServerKeyFile is the key of ServerCertFile.
func (w *World) ServerKeyFile() string { return filepath.Join(w.Env.Dir, "server-key.pem") }

// ClientCAFile contains the authorities with which servers verify clients.
func (w *World) ClientCAFile() string { return filepath.Join(w.Env.Dir, "clients-ca.pem") }

// Config writes a secretbroker.yaml with additional settings and returns its path.
func (w *World) Config(name, more string) (string, error) {
	return w.ConfigFor(name, "integrations/", more)
}

// ConfigFor is Config with another directory of integrations.
func (w *World) ConfigFor(name, integrations, more string) (string, error) {
	path := filepath.Join(w.Env.Dir, name)
	return path, os.WriteFile(path, fmt.Appendf(nil, `
listen: 127.0.0.1:0
admin_listen: 127.0.0.1:0
tls: {cert_file: server.pem, key_file: server-key.pem, client_ca_file: clients-ca.pem}
registry: {directory: {path: %s}}
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
