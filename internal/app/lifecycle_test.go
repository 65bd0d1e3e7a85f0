package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// TestReadinessFallsFirst: a broker that has received a signal to end reports that it is
// not ready and continues to answer, on old and new connections. After a second signal it
// does not wait.
func TestReadinessFallsFirst(t *testing.T) {
	env := newEnvironment(t)
	set(t, env.ConfigFile, "shutdown", "{drain_delay: 5m}")
	b := startServed(t, env, env.ConfigFile)
	old := b.client(t, 1)
	if _, err := old.Resolve(t.Context(), sample); err != nil {
		t.Fatal(err)
	}
	b.signal(t, syscall.SIGTERM)
	asynctest.Eventually(t, "/readyz says that it goes", func() bool { code, _ := b.readyz(); return code == http.StatusServiceUnavailable })
	for name, c := range map[string]*client.Client{"old": old, "new": b.client(t, 1)} {
		if _, err := c.Resolve(t.Context(), sample); err != nil {
			t.Errorf("a call on the %s connection: %v", name, err)
		}
	}
	b.signal(t, syscall.SIGTERM)
	<-b.exited
	if status, ok := b.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != syscall.SIGTERM {
		t.Errorf("ended with %v", b.err)
	}
}

// endDuringCall starts a broker whose vault answers after delay, and signals it to end
// during a call. answered receives the result of the call.
func endDuringCall(t *testing.T, env *devmode.Environment, delay string) (b *served, answered <-chan error) {
	t.Helper()
	if err := edit(env.SecretsFile, "  your-key-vault-name:\n", "  your-key-vault-name:\n    delay: "+delay+"\n"); err != nil {
		t.Fatal(err)
	}
	b = startServed(t, env, env.ConfigFile)
	c := b.client(t, 1)
	result := make(chan error, 1)
	go func() {
		_, err := c.Resolve(t.Context(), sample)
		result <- err
	}()
	asynctest.Eventually(t, "the vault is asked", func() bool { return env.KeyVault.Reads() > 0 })
	b.signal(t, syscall.SIGTERM)
	return b, result
}

// TestCallsUnderWayFinish: active calls complete although the broker accepts no new ones.
func TestCallsUnderWayFinish(t *testing.T) {
	env := newEnvironment(t)
	b, answered := endDuringCall(t, env, "1s")
	asynctest.Eventually(t, "no new connection is taken", func() bool {
		conn, err := net.Dial("tcp", b.addr)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	if err := <-answered; err != nil {
		t.Errorf("the call under way was lost: %v\n%s", err, b.log.String())
	}
	if <-b.exited; b.err != nil {
		t.Errorf("ended with %v\n%s", b.err, b.log.String())
	}
}

// TestCallsThatDoNotFinishAreCut: calls that are still active after shutdown.timeout are
// cut off.
func TestCallsThatDoNotFinishAreCut(t *testing.T) {
	env := newEnvironment(t)
	set(t, env.ConfigFile, "shutdown", "{drain_delay: 0s, timeout: 1s}")
	b, answered := endDuringCall(t, env, "1h")
	if <-b.exited; b.err != nil {
		t.Errorf("ended with %v\n%s", b.err, b.log.String())
	}
	if err := <-answered; err == nil {
		t.Error("a call that the vault did not answer is answered")
	}
}

// TestRollingRestart restarts two brokers in turn under load. Each caller calls one of
// them and, if that fails, the other one: no call fails.
func TestRollingRestart(t *testing.T) {
	env := newEnvironment(t)
	var brokers [2]*served
	var clients [2]*client.Client
	configs := [2]string{filepath.Join(env.Dir, "broker-a.yaml"), filepath.Join(env.Dir, "broker-b.yaml")}
	for i, file := range configs {
		if err := os.WriteFile(file, []byte(readFile(env.ConfigFile)), 0o600); err != nil {
			t.Fatal(err)
		}
		set(t, file, "audit", fmt.Sprintf("{file: audit-%d.jsonl}", i))
		set(t, file, "shutdown", "{drain_delay: 100ms}")
		brokers[i] = startServed(t, env, file)
		set(t, file, "listen", brokers[i].addr) // the next broker listens on the same address
		clients[i] = brokers[i].client(t, 1)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var answered, failed atomic.Int64
	var callers sync.WaitGroup
	for n := range 8 {
		callers.Go(func() {
			for first := n % 2; ctx.Err() == nil; {
				_, err := clients[first].Resolve(t.Context(), sample)
				if err != nil {
					first = 1 - first
					_, err = clients[first].Resolve(t.Context(), sample)
				}
				if err != nil {
					failed.Add(1)
					t.Errorf("both brokers failed a call: %v", err)
					return
				}
				answered.Add(1)
			}
		})
	}
	more := func(n int64) { // waits for n further answers
		t.Helper()
		goal := answered.Load() + n
		asynctest.Eventually(t, "calls are answered", func() bool { return answered.Load() >= goal || failed.Load() > 0 })
	}
	for range 2 {
		for i, file := range configs {
			more(100)
			brokers[i].signal(t, syscall.SIGTERM)
			if <-brokers[i].exited; brokers[i].err != nil {
				t.Errorf("ended with %v\n%s", brokers[i].err, brokers[i].log.String())
			}
			brokers[i] = startServed(t, env, file)
			// Until it has reconnected, a client fails at once, with backoff.
			asynctest.Eventually(t, "the client is back", func() bool { _, err := clients[i].Resolve(t.Context(), sample); return err == nil })
		}
	}
	more(100)
	stop()
	callers.Wait()
}

// TestOneBrokenIntegration: a broken integration at the start does not affect the others,
// and the readiness names it.
func TestOneBrokenIntegration(t *testing.T) {
	env := newEnvironment(t)
	if err := os.WriteFile(filepath.Join(filepath.Dir(env.IntegrationFile), "broken.yaml"), []byte("id: broken\nkind: NO_SUCH_STORE\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := startServed(t, env, env.ConfigFile)
	if _, err := b.client(t, 1).Resolve(t.Context(), sample); err != nil {
		t.Error(err)
	}
	code, body := b.readyz()
	if code != http.StatusOK || !strings.Contains(body, "broken.yaml") {
		t.Errorf("readiness: %d %s", code, body)
	}
	broken := sample
	broken.IntegrationID = "broken"
	_, err := b.client(t, 1).Resolve(t.Context(), broken)
	var e *client.Error
	if !errors.As(err, &e) || e.Reason != client.ReasonAccessDenied {
		t.Errorf("the broken one: %v", err)
	}
}

// TestReloadOfSettings: some settings take effect, others require a restart and are
// listed, and an invalid file changes nothing.
func TestReloadOfSettings(t *testing.T) {
	env := newEnvironment(t)
	b := startServed(t, env, env.ConfigFile)
	reloads := 0
	hangup := func() {
		t.Helper()
		b.signal(t, syscall.SIGHUP)
		reloads++
		asynctest.Eventually(t, "reloaded", func() bool { return strings.Count(b.log.String(), `"msg":"reloaded"`) == reloads })
	}
	problem := func() string {
		code, body := b.readyz()
		if code != http.StatusOK {
			t.Errorf("readiness is %d", code)
		}
		return body
	}
	c := b.client(t, 1)
	overloaded := func() bool {
		for range 10 {
			_, err := c.Resolve(t.Context(), sample)
			var e *client.Error
			if errors.As(err, &e) && e.Reason == client.ReasonOverloaded {
				return true
			} else if err != nil {
				t.Fatal(err)
			}
		}
		return false
	}
	hangup()
	if body := problem(); strings.Contains(body, "configuration") || overloaded() {
		t.Errorf("nothing has changed: %s", body)
	}
	set(t, env.ConfigFile, "limits", "{max_calls_per_second_per_principal: 1}")
	set(t, env.ConfigFile, "cache", "{ttl: 7m}")
	hangup()
	if body := problem(); !strings.Contains(body, "cache.ttl") || strings.Contains(body, "limits") || strings.Contains(body, "max_bytes") {
		t.Errorf("what waits for a restart: %s", body)
	}
	if !overloaded() {
		t.Error("the limit is not in force")
	}
	set(t, env.ConfigFile, "limits", "{max_calls_per_second_per_principal: 100000, max_configs: none}")
	hangup()
	if body := problem(); !strings.Contains(body, "is invalid") || !strings.Contains(body, "limits.max_configs") {
		t.Errorf("a faulty file: %s", body)
	}
	if !overloaded() {
		t.Error("a faulty file has changed a limit")
	}
	set(t, env.ConfigFile, "limits", "{max_calls_per_second_per_principal: 1000000}")
	set(t, env.ConfigFile, "cache", "{ttl: 5m, max_bytes: 64MiB}")
	hangup()
	if body := problem(); strings.Contains(body, "configuration") || overloaded() {
		t.Errorf("nothing has changed: %s", body)
	}
}

// TestServiceManager checks the notifications that systemd receives from a broker.
func TestServiceManager(t *testing.T) {
	env := newEnvironment(t)
	socket := filepath.Join(t.TempDir(), "s")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	hear := func() string {
		t.Helper()
		buf := make([]byte, 1024)
		if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	watchdogs := 0
	// next returns the next notification other than those of the watchdog.
	next := func() string {
		t.Helper()
		for {
			said := hear()
			if said != "WATCHDOG=1" {
				return said
			}
			watchdogs++
		}
	}
	b := startServed(t, env, env.ConfigFile, "NOTIFY_SOCKET="+socket, "WATCHDOG_USEC=100000")
	if said := next(); said != "READY=1" {
		t.Errorf("at the start: %q", said)
	}
	for range 3 {
		if said := hear(); said != "WATCHDOG=1" {
			t.Errorf("while it runs: %q", said)
		}
	}
	b.signal(t, syscall.SIGHUP)
	if said := next(); !strings.HasPrefix(said, "RELOADING=1\nMONOTONIC_USEC=") {
		t.Errorf("at a reload: %q", said)
	}
	if said := next(); said != "READY=1" {
		t.Errorf("after a reload: %q", said)
	}
	b.signal(t, syscall.SIGTERM)
	if said := next(); said != "STOPPING=1" {
		t.Errorf("at the end: %q", said)
	}
	if <-b.exited; b.err != nil {
		t.Errorf("ended with %v\n%s", b.err, b.log.String())
	}
}
