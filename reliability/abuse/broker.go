package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/secretbroker/secretbroker/bench/testbed"
)

// mostMemory is the memory at which the suite kills a broker to protect the machine; the
// broker is then far above its limit.
const mostMemory = 2 << 30

// broker is a process of the broker's binary.
type broker struct {
	addr, admin string
	audit       string // its audit log
	logFile     string
	cmd         *exec.Cmd
	ended       chan struct{}
	killed      atomic.Bool // killed for its memory
	peak        atomic.Int64
}

// startBroker starts a broker with the given settings and waits until it is ready.
func startBroker(ctx context.Context, b *bed, name, settings, audit, cpus string) (*broker, error) {
	config := b.path(name + ".yaml")
	err := os.WriteFile(config, fmt.Appendf(nil, `
listen: 127.0.0.1:0
admin_listen: 127.0.0.1:0
tls: {cert_file: server.pem, key_file: server-key.pem, client_ca_file: clients-ca.pem}
audit: {file: %s}
shutdown: {drain_delay: 0s, timeout: 1s}
%s
`, audit, settings), 0o600)
	if err != nil {
		return nil, err
	}
	p := &broker{audit: audit, logFile: b.path(name + ".log"), ended: make(chan struct{})}
	log, err := os.Create(p.logFile)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the process has its own handle
	command := pinned(cpus, b.options.broker, "serve", "--config", config, "--log-format", "json")
	p.cmd = exec.Command(command[0], command[1:]...)
	p.cmd.Env = append(os.Environ(), fmt.Sprintf("GOMEMLIMIT=%d", b.options.memory/10*9))
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait() // later checks notice that it has ended
		close(p.ended)
	}()
	if err := p.awaitReady(ctx); err != nil {
		p.stop()
		text, _ := os.ReadFile(p.logFile)
		return nil, fmt.Errorf("%w:\n%s", err, text)
	}
	go p.watchMemory()
	return p, nil
}

// pinned returns a command that runs on the given CPUs, if there are any.
func pinned(cpus string, command ...string) []string {
	if cpus == "" {
		return command
	}
	return append([]string{"taskset", "-c", cpus}, command...)
}

// awaitReady waits for the log line with the broker's address.
func (p *broker) awaitReady(ctx context.Context) error {
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); pause(ctx, 10*time.Millisecond) {
		text, err := os.ReadFile(p.logFile)
		if err != nil {
			return err
		}
		for line := range bytes.Lines(text) {
			var ready struct {
				Msg, Listen string
				AdminListen string `json:"admin_listen"`
			}
			if json.Unmarshal(line, &ready) == nil && ready.Msg == "ready" {
				p.addr, p.admin = ready.Listen, ready.AdminListen
				return nil
			}
		}
		if ctx.Err() != nil || p.hasEnded() {
			break
		}
	}
	return errors.New("the broker did not become ready")
}

func (p *broker) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// watchMemory records the peak of the resident memory, which the kernel measures, and kills a
// broker that uses far too much.
func (p *broker) watchMemory() {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-p.ended:
			return
		case <-tick.C:
		}
		peak := testbed.UsageOf(p.cmd.Process.Pid).PeakRSS
		p.peak.Store(max(p.peak.Load(), peak))
		if peak > mostMemory {
			p.killed.Store(true)
			_ = p.cmd.Process.Kill() // fails if it has already ended
			return
		}
	}
}

// stop ends the process.
func (p *broker) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(5 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// ready reports whether /readyz reports that the broker accepts calls.
func (p *broker) ready() bool {
	c := http.Client{Timeout: time.Second}
	resp, err := c.Get("http://" + p.admin + "/readyz")
	if err != nil {
		return false
	}
	_ = resp.Body.Close() // only the status matters
	return resp.StatusCode == http.StatusOK
}

// logLines returns the number of lines in the broker's log.
func (p *broker) logLines() int {
	text, _ := os.ReadFile(p.logFile) // written by this program
	return bytes.Count(text, []byte("\n"))
}

// auditBytes returns the size of the audit log.
func (p *broker) auditBytes() int64 {
	info, err := os.Stat(p.audit)
	if err != nil {
		return 0
	}
	return info.Size()
}
