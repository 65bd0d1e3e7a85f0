//go:build unix

package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/devmode"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/registry/seal"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore/pgtest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// cluster is a group of brokers, each in its own process, with one PostgreSQL server and
// one Key Vault.
type cluster struct {
	*devmode.Environment
	t        *testing.T
	postgres *pgtest.Server
	store    *sqlstore.Store // the test's access to the integrations
	replicas []*member
	document string // of an integration, with the placeholder ID as its id
}

// member is one of the brokers.
type member struct {
	config, addr, admin string
	cmd                 *exec.Cmd
	log                 *os.File
}

// newCluster starts a cluster. more are additional lines of the section registry.
func newCluster(t *testing.T, replicas int, more ...string) *cluster {
	t.Helper()
	env, err := devmode.Start(t.Context(), devmode.Options{
		Dir: t.TempDir(), Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0", VaultListen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { env.Close() })
	c := &cluster{Environment: env, t: t, postgres: pgtest.New(t)}
	keyFile := filepath.Join(env.Dir, "registry.key")
	if err := seal.Create(keyFile); err != nil {
		t.Fatal(err)
	}
	keys, err := seal.Open(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	c.store, err = sqlstore.OpenPostgres(t.Context(), sqlstore.Postgres{URL: c.postgres.URL("postgres")}, sqlstore.Config{Kinds: kinds.All(), Sealer: keys, Files: []string{env.Dir}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.store.Close() })
	text, err := os.ReadFile(env.IntegrationFile)
	if err != nil {
		t.Fatal(err)
	}
	c.document = strings.NewReplacer(
		"id: "+env.IntegrationID, "id: ID",
		"client_secret, client_secret_file: ../client-secret.txt", "client_secret",
		"../keyvault-ca.pem", env.KeyVaultCAFile,
	).Replace(string(text))
	for i := range replicas {
		c.replicas = append(c.replicas, c.newReplica(i, more))
	}
	for _, r := range c.replicas {
		c.start(r)
	}
	t.Cleanup(func() {
		for _, r := range c.replicas {
			c.stop(r, syscall.SIGTERM)
		}
	})
	return c
}

func (c *cluster) newReplica(i int, more []string) *member {
	c.t.Helper()
	r := &member{config: filepath.Join(c.Dir, fmt.Sprintf("broker-%d.yaml", i)), addr: freeAddr(c.t), admin: freeAddr(c.t)}
	text, err := os.ReadFile(c.ConfigFile)
	if err != nil {
		c.t.Fatal(err)
	}
	config := strings.NewReplacer(
		`listen: "127.0.0.1:0"`, "listen: "+r.addr, `listen: 127.0.0.1:0`, "listen: "+r.addr,
		"registry: {directory: {path: integrations/}}", fmt.Sprintf("registry: {%s}", strings.Join(append(more, "postgres: {url: '"+c.postgres.URL("postgres")+"'}", "seal: {key_file: registry.key}", "allowed_files: [.]"), ", ")),
		"audit.jsonl", fmt.Sprintf("audit-%d.jsonl", i), "drain_delay: 0s", "drain_delay: 300ms",
	).Replace(string(text))
	config = strings.Replace(config, "admin_listen: "+r.addr, "admin_listen: "+r.admin, 1)
	if err := os.WriteFile(r.config, []byte(config), 0o600); err != nil {
		c.t.Fatal(err)
	}
	if r.log, err = os.Create(r.config + ".log"); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { r.log.Close() })
	return r
}

// freeAddr returns an address to listen on. Its port is below those that the system
// assigns to outgoing connections, so it remains free while a replica is stopped.
func freeAddr(t *testing.T) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 20_000+rand.N(10_000))
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	t.Fatal("there is no free port")
	return ""
}

// start starts a replica and returns when it is ready.
func (c *cluster) start(r *member) {
	c.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	r.cmd = exec.Command(exe)
	r.cmd.Args = []string{"secretbroker", "serve", "--config", r.config}
	r.cmd.Stderr = r.log
	if err := r.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.await("a replica is ready", func() bool { return r.readyz() == http.StatusOK })
}

// text returns the log of the replica.
func (r *member) text() string {
	b, _ := os.ReadFile(r.log.Name())
	return string(b)
}

func (r *member) readyz() int {
	res, err := http.Get("http://" + r.admin + "/readyz")
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	return res.StatusCode
}

func (c *cluster) stop(r *member, how os.Signal) {
	if r.cmd == nil {
		return
	}
	_ = r.cmd.Process.Signal(how)
	_ = r.cmd.Wait()
	r.cmd = nil
}

func (c *cluster) await(what string, is func() bool) {
	c.t.Helper()
	for deadline := time.After(time.Minute); !is(); {
		select {
		case <-deadline:
			for _, r := range c.replicas {
				c.t.Logf("%s:\n%s", r.config, r.text())
			}
			c.t.Fatalf("timed out waiting: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// create creates an integration whose credential is stored.
func (c *cluster) create(id string) {
	c.t.Helper()
	credential, err := os.ReadFile(c.ClientSecretFile)
	if err != nil {
		c.t.Fatal(err)
	}
	_, err = c.store.Create(c.t.Context(), registry.Change{
		Document:    []byte(strings.Replace(c.document, "id: ID", "id: "+id, 1)),
		Credentials: map[string]secret.Value{"azure.credential.client_secret": secret.NewValue(credential)},
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// client returns a client of these replicas or, without any, of all.
func (c *cluster) client(change func(*client.Config), replicas ...*member) *client.Client {
	c.t.Helper()
	cfg := client.Config{CAFile: c.CAFile, CertFile: c.Worker.CertFile, KeyFile: c.Worker.KeyFile, ServerName: "localhost"}
	for _, r := range replicas {
		cfg.Addrs = append(cfg.Addrs, r.addr)
	}
	if change != nil {
		change(&cfg)
	}
	cl, err := client.New(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { cl.Close() })
	return cl
}

// ask makes one call of a connector.
func ask(ctx context.Context, cl *client.Client, integration string) error {
	res, err := cl.Resolve(ctx, client.ResolveRequest{
		IntegrationID: integration, Connector: "sink-1",
		Configs: map[string]string{"p": devmode.VaultURL + "::sqlserver-db-secret::password"},
	})
	if err != nil {
		return err
	}
	if res.Values["p"].Reveal() != "$trongPassw0rdExamp1e" {
		return errors.New("a wrong value")
	}
	return nil
}

// load is a group of callers that call continuously.
type load struct {
	answered atomic.Int64
	mu       sync.Mutex
	failures []string
	stop     func()
}

func (c *cluster) load(integrations int, clients ...*client.Client) *load {
	l := &load{}
	ctx, cancel := context.WithCancel(context.Background())
	var callers sync.WaitGroup
	for n, cl := range clients {
		for g := range 2 {
			callers.Go(func() {
				for i := n + g; ctx.Err() == nil; i++ {
					if err := ask(context.Background(), cl, fmt.Sprintf("cspi-%d", i%integrations)); err != nil {
						l.mu.Lock()
						l.failures = append(l.failures, err.Error())
						l.mu.Unlock()
					} else {
						l.answered.Add(1)
					}
					select {
					case <-ctx.Done():
					case <-time.After(4 * time.Millisecond):
					}
				}
			})
		}
	}
	l.stop = sync.OnceFunc(func() { cancel(); callers.Wait() })
	c.t.Cleanup(l.stop)
	return l
}

// during calls do under load and returns the number of calls that failed.
func (l *load) during(t *testing.T, what string, do func()) {
	t.Helper()
	l.mu.Lock()
	before, answered := len(l.failures), l.answered.Load()
	l.mu.Unlock()
	began := time.Now()
	do()
	l.mu.Lock()
	defer l.mu.Unlock()
	failed := l.failures[before:]
	t.Logf("%s: %v, %d calls answered, %d failed", what, time.Since(began).Round(time.Millisecond), l.answered.Load()-answered, len(failed))
	if len(failed) > 0 {
		t.Errorf("%s: %d calls failed, such as: %s", what, len(failed), failed[0])
	}
	if l.answered.Load() == answered {
		t.Errorf("%s: no call was answered", what)
	}
}

// Three replicas under load: they are restarted one after the other, killed, and cut off
// from their database, and a grant is revoked.
func TestReplicasUnderLoad(t *testing.T) {
	c := newCluster(t, 3)
	const integrations = 12
	for i := range integrations {
		c.create(fmt.Sprintf("cspi-%d", i))
	}
	clients := func(attempts int) (all []*client.Client) {
		for _, balance := range []client.Balance{client.BalanceIntegration, client.BalanceRoundRobin, client.BalanceIntegration, client.BalanceRoundRobin} {
			all = append(all, c.client(func(cfg *client.Config) { cfg.Balance, cfg.MaxAttempts = balance, attempts }, c.replicas...))
		}
		return all
	}
	for _, r := range c.replicas {
		direct := c.client(nil, r)
		c.await("all replicas have the integrations", func() bool { return ask(t.Context(), direct, fmt.Sprintf("cspi-%d", integrations-1)) == nil })
	}
	pause := func() { <-time.After(time.Second) }
	l := c.load(integrations, clients(1)...) // no retries
	l.during(t, "steady", pause)
	l.during(t, "rolling restart", func() {
		for _, r := range c.replicas {
			c.stop(r, syscall.SIGTERM)
			c.start(r)
		}
	})
	l.stop()
	l = c.load(integrations, clients(0)...)
	l.during(t, "a replica killed", func() {
		c.stop(c.replicas[1], syscall.SIGKILL)
		pause()
		c.start(c.replicas[1])
	})
	l.during(t, "the database killed", func() {
		c.postgres.Kill()
		pause()
		pause()
		for _, r := range c.replicas {
			if code := r.readyz(); code != http.StatusOK {
				t.Errorf("/readyz says %d within max_outage", code)
			}
		}
		c.postgres.Start()
		pause()
	})
	c.checkUsage(l, integrations)
	l.stop()
	c.checkRevocation()
}

// checkUsage checks that the usage of all replicas is recorded together.
func (c *cluster) checkUsage(l *load, integrations int) {
	c.t.Helper()
	c.await("usage is written down", func() bool {
		last, err := c.store.LastUsed(c.t.Context())
		return err == nil && len(last) == integrations
	})
	usage, err := c.store.Usage(c.t.Context(), "cspi-0", time.Time{}, 0)
	if err != nil || len(usage) != 1 || usage[0].Principal != authz.Principal(c.Worker.ID) || usage[0].Connector != "sink-1" ||
		usage[0].Secret != "sqlserver-db-secret" || usage[0].Key != "password" || usage[0].Version == "" {
		c.t.Errorf("usage: %+v, %v", usage, err)
	}
}

// checkRevocation removes a grant and measures how long each replica continues to apply
// it.
func (c *cluster) checkRevocation() {
	c.t.Helper()
	var waiting sync.WaitGroup
	began := make(chan time.Time)
	for i, r := range c.replicas {
		direct := c.client(nil, r)
		if err := ask(c.t.Context(), direct, "cspi-0"); err != nil {
			c.t.Fatal(err)
		}
		waiting.Go(func() {
			at := <-began
			for time.Since(at) < time.Minute {
				var e *client.Error
				if err := ask(context.Background(), direct, "cspi-0"); errors.As(err, &e) && e.Reason == "ACCESS_DENIED" {
					c.t.Logf("replica %d: revoked after %v", i, time.Since(at).Round(time.Millisecond))
					return
				}
				<-time.After(time.Millisecond)
			}
			c.t.Errorf("replica %d honours a revoked grant", i)
		})
	}
	revoked := strings.Replace(strings.Replace(c.document, "id: ID", "id: cspi-0", 1), "spiffe://example.org/connect/*", "spiffe://example.org/else/*", 1)
	if _, err := c.store.Update(c.t.Context(), registry.Change{Document: []byte(revoked)}); err != nil {
		c.t.Fatal(err)
	}
	at := time.Now()
	for range c.replicas {
		began <- at
	}
	waiting.Wait()
}
