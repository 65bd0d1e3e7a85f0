package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// replica is one of the brokers.
type replica struct {
	addr, admin string
	config      string
	logFile     string
	audit       string
	broker      string // the binary
	cmd         *exec.Cmd
}

// newReplica writes the configuration of a replica.
func newReplica(w *world, broker string, number int) (*replica, error) {
	r := &replica{addr: freeAddr(), admin: freeAddr(), broker: broker}
	r.config = filepath.Join(w.Env.Dir, fmt.Sprintf("replica-%d.yaml", number))
	r.logFile, r.audit = r.config+".log", r.config+".audit"
	return r, os.WriteFile(r.config, fmt.Appendf(nil, `
listen: %s
admin_listen: %s
tls: {cert_file: server.pem, key_file: server-key.pem, client_ca_file: clients-ca.pem}
registry: {postgres: {url: 'postgres://postgres@%s/postgres?sslmode=disable'}, seal: {key_file: registry.key}, allowed_files: [.]}
roles: {rotator: [spiffe://example.org%s]}
watch: {splay: 200ms}
audit: {file: %s}
shutdown: {drain_delay: 200ms, timeout: 3s}
`, r.addr, r.admin, w.database.Addr(), rotator, r.audit), 0o600)
}

// start starts the process and waits until it is ready.
func (r *replica) start(ctx context.Context) error {
	log, err := os.OpenFile(r.logFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own handle
	cmd := exec.Command(r.broker, "serve", "--config", r.config, "--log-level", "debug")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	r.cmd = cmd
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline) && ctx.Err() == nil; pause(ctx, 20*time.Millisecond) {
		resp, err := http.Get("http://" + r.admin + "/readyz")
		if err != nil {
			continue
		}
		_ = resp.Body.Close() // only the status matters
		if resp.StatusCode == http.StatusOK {
			return nil
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	text, _ := os.ReadFile(r.logFile) // for people
	return fmt.Errorf("a replica did not become ready:\n%s", text)
}

// stop ends the process by a signal and waits for it.
func (r *replica) stop(sig os.Signal) {
	if r.cmd == nil {
		return
	}
	_ = r.cmd.Process.Signal(sig)                                               // fails if it has ended
	late := time.AfterFunc(20*time.Second, func() { _ = r.cmd.Process.Kill() }) // a broker that does not end
	_ = r.cmd.Wait()                                                            // it fails if it was killed
	late.Stop()
	r.cmd = nil
}

// signal sends a signal to the process.
func (r *replica) signal(sig os.Signal) { _ = r.cmd.Process.Signal(sig) }

// freeAddr returns an address to listen on.
func freeAddr() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	return l.Addr().String()
}
