package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// The two vaults: network failures affect only the first.
const (
	shakyVault  = "your-key-vault-name"
	steadyVault = "steady-key-vault"
	secrets     = 20 // in each vault
	ttl         = 2 * time.Second
	maxStale    = 5 * time.Second
	// canary is the prefix of every value, to find values where they must not be.
	canary = "canary-7f3a"
)

// world is the environment of the load: the embedded Key Vault, the proxy in front of it, and
// the broker's process and files.
type world struct {
	env    *devmode.Environment
	proxy  *toxiproxy.Proxy
	binary string
	addr   string
	admin  string
	log    asynctest.Buffer

	mu      sync.Mutex
	process *exec.Cmd
	history map[string][]value // vault/name -> its values, oldest first
	// deniedFrom and deniedUntil limit the period in which the steady integration
	// certainly has no grant.
	deniedFrom, deniedUntil time.Time
	scraped                 []string // metrics pages
}

// value is a value of a secret, and the earliest time at which the secret had it.
type value struct {
	text string
	from time.Time
}

func newWorld(ctx context.Context, dir, binary string) (*world, error) {
	w := &world{binary: binary, addr: freeAddr(), admin: freeAddr(), history: make(map[string][]value)}
	env, err := devmode.Start(ctx, devmode.Options{Dir: dir, Listen: w.addr, AdminListen: w.admin, VaultListen: "127.0.0.1:0"})
	if err != nil {
		return nil, err
	}
	w.env = env
	api := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), zerolog.Nop())
	w.proxy = toxiproxy.NewProxy(api, "vault", freeAddr(), env.VaultListen)
	if err := w.proxy.Start(); err != nil {
		return nil, err
	}
	w.rotate()
	if err := w.integration("cspi-shaky", shakyVault, w.proxy.Listen, fmt.Sprintf("{ttl: %s, max_stale: %s}", ttl, maxStale), true); err != nil {
		return nil, err
	}
	if err := w.steadyGrant(true); err != nil {
		return nil, err
	}
	return w, os.Remove(env.IntegrationFile)
}

func (w *world) steadyGrant(granted bool) error {
	return w.integration("cspi-steady", steadyVault, w.env.VaultListen, fmt.Sprintf("{ttl: %s}", ttl), granted)
}

// integration writes an integration's file as an operator would.
func (w *world) integration(id, vault, dial, cache string, granted bool) error {
	sample, err := os.ReadFile(w.env.IntegrationFile)
	if err != nil { // the sample exists only the first time
		sample, err = os.ReadFile(filepath.Join(w.env.Dir, "integrations", "cspi-shaky.yaml"))
	}
	if err != nil {
		return err
	}
	field := func(name string) string {
		for line := range strings.Lines(string(sample)) {
			if rest, ok := strings.CutPrefix(strings.TrimSpace(line), name+":"); ok {
				return strings.TrimSpace(rest)
			}
		}
		return ""
	}
	principal := "spiffe://example.org/connect/*"
	if !granted {
		principal = "spiffe://example.org/nobody"
	}
	text := fmt.Sprintf(`id: %s
kind: AZURE_KEY_VAULT
azure:
  tenant_id: %s
  client_id: %s
  credential: {type: client_secret, client_secret_file: ../client-secret.txt}
  vaults: [https://%s.vault.azure.net]
  ca_file: ../keyvault-ca.pem
  authority_host: https://%s
  disable_instance_discovery: true
  dial: {%s.vault.azure.net: %q}
cache: %s
grants:
  - principals: [%s]
    secrets: [load-*]
`, id, field("tenant_id"), field("client_id"), vault, dial, vault, dial, cache, principal)
	return writeFile(filepath.Join(w.env.Dir, "integrations", id+".yaml"), text)
}

// rotate sets a new value for every secret.
func (w *world) rotate() {
	w.mu.Lock()
	defer w.mu.Unlock()
	var text strings.Builder
	text.WriteString("vaults:\n")
	now := time.Now()
	for _, vault := range []string{shakyVault, steadyVault} {
		fmt.Fprintf(&text, "  %s:\n    secrets:\n", vault)
		for i := range secrets {
			name := fmt.Sprintf("load-%02d", i)
			key := vault + "/" + name
			v := value{fmt.Sprintf("%s-%s-%d", canary, key, len(w.history[key])), now}
			w.history[key] = append(w.history[key], v)
			fmt.Fprintf(&text, "      %s: {value: %s}\n", name, v.text)
		}
	}
	if err := writeFile(w.env.SecretsFile, text.String()); err != nil {
		panic(err)
	}
}

// right reports whether a secret had this value at some time between the read and now.
func (w *world) right(key, text string, fetched time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	// A read during the replacement of the file may see either value.
	const slack = 100 * time.Millisecond
	values := w.history[key]
	for i, v := range values {
		if v.text == text {
			return i == len(values)-1 || values[i+1].from.Add(slack).After(fetched)
		}
	}
	return false
}

// mustBeDenied reports whether a call to the steady integration with these start and end
// times had no grant during its whole duration.
func (w *world) mustBeDenied(begun, ended time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.deniedFrom.IsZero() && begun.After(w.deniedFrom) && (w.deniedUntil.IsZero() || ended.Before(w.deniedUntil))
}

func (w *world) startBroker(ctx context.Context) error {
	cmd := exec.Command(w.binary, "serve", "--config", w.env.ConfigFile, "--log-level", "debug")
	cmd.Stdout, cmd.Stderr = &w.log, &w.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	w.mu.Lock()
	w.process = cmd
	w.mu.Unlock()
	for range 200 {
		if resp, err := http.Get("http://" + w.admin + "/readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(25 * time.Millisecond):
		}
	}
	return fmt.Errorf("the broker did not become ready:\n%s", w.log.String())
}

// stopBroker ends the broker's process by a signal and waits for it.
func (w *world) stopBroker(sig syscall.Signal) {
	w.scrape()
	w.mu.Lock()
	cmd := w.process
	w.process = nil
	w.mu.Unlock()
	if cmd != nil {
		_ = cmd.Process.Signal(sig)
		_ = cmd.Wait()
	}
}

func (w *world) signal(sig syscall.Signal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.process != nil {
		_ = w.process.Process.Signal(sig)
	}
}

// scrape stores a copy of the metrics and the readiness for the search for values.
func (w *world) scrape() {
	for _, page := range []string{"/metrics", "/readyz"} {
		resp, err := http.Get("http://" + w.admin + page)
		if err != nil {
			continue
		}
		var body bytes.Buffer
		_, _ = body.ReadFrom(resp.Body)
		resp.Body.Close()
		w.mu.Lock()
		w.scraped = append(w.scraped, body.String())
		w.mu.Unlock()
	}
}

func (w *world) close() {
	w.stopBroker(syscall.SIGKILL)
	w.proxy.Stop()
	_ = w.env.Close()
}

// leaks counts the values in places where they must not be.
func (w *world) leaks() int {
	n := strings.Count(w.log.String(), canary)
	files, _ := filepath.Glob(filepath.Join(w.env.Dir, "audit.jsonl*"))
	for _, f := range files {
		data, _ := os.ReadFile(f)
		n += bytes.Count(data, []byte(canary))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, page := range w.scraped {
		n += strings.Count(page, canary)
	}
	return n
}

func freeAddr() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// writeFile replaces a file atomically.
func writeFile(path, text string) error {
	temp := filepath.Join(filepath.Dir(path), ".new-"+filepath.Base(path))
	if err := os.WriteFile(temp, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(temp, path)
}
