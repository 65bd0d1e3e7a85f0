package app

import (
	"errors"
	"io"
	"log"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// line is the network between broker and vault, which can be cut and mended.
type line struct {
	addr, to string

	mu       sync.Mutex
	listener net.Listener
	conns    []net.Conn
	running  sync.WaitGroup
}

func newLine(t *testing.T, to string) *line {
	l := &line{addr: "127.0.0.1:0", to: to}
	l.restore(t)
	l.addr = l.listener.Addr().String()
	t.Cleanup(l.cut)
	return l
}

// restore makes the line carry connections.
func (l *line) restore(t *testing.T) {
	t.Helper()
	listener, err := net.Listen("tcp", l.addr)
	if err != nil {
		t.Fatal(err)
	}
	l.listener = listener
	l.running.Go(func() {
		for {
			down, err := listener.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", l.to)
			if err != nil {
				_ = down.Close()
				continue
			}
			l.mu.Lock()
			l.conns = append(l.conns, down, up)
			l.mu.Unlock()
			for _, way := range [][2]net.Conn{{up, down}, {down, up}} {
				l.running.Go(func() {
					_, _ = io.Copy(way[0], way[1])
					_ = way[0].Close()
				})
			}
		}
	})
}

// cut breaks all connections off and refuses new ones.
func (l *line) cut() {
	_ = l.listener.Close()
	l.mu.Lock()
	for _, c := range l.conns {
		_ = c.Close()
	}
	l.conns = nil
	l.mu.Unlock()
	l.running.Wait()
}

// TestDyingVault: a vault dies. Values that have been read go on being answered,
// marked stale, others fail as long as the vault is dead, and all is well soon
// after it is back.
func TestDyingVault(t *testing.T) {
	var vaultLine *line
	b := newBroker(t, func(env *devmode.Environment) error {
		vaultLine = newLine(t, env.VaultListen)
		return errors.Join(
			edit(env.IntegrationFile, "your-key-vault-name.vault.azure.net: "+env.VaultListen, "your-key-vault-name.vault.azure.net: "+vaultLine.addr),
			edit(env.IntegrationFile, "cache: {ttl: 5m}", "cache: {ttl: 1s, max_stale: 1h}"))
	})
	c := b.as(t, b.Worker)
	ask := func(name string) (client.Value, *client.Error) {
		res, err := c.Resolve(t.Context(), request("p", vault+"::"+name))
		var e *client.Error
		if err != nil && !errors.As(err, &e) {
			t.Fatal(err)
		}
		if err != nil {
			return client.Value{}, e
		}
		return res.Values["p"], nil
	}
	first, err := ask("postgres-password")
	if err != nil || first.Stale {
		t.Fatalf("%+v, %v", first, err)
	}
	vaultLine.cut()
	asynctest.Eventually(t, "the known value is stale", func() bool {
		v, err := ask("postgres-password")
		if err != nil || v.Reveal() != first.Reveal() || v.Version != first.Version {
			t.Fatalf("during the outage: %+v, %v", v, err)
		}
		return v.Stale
	})
	asynctest.Eventually(t, "the vault is taken for dead", func() bool {
		if _, err := ask("sqlserver-db-secret"); err == nil || err.Reason != client.ReasonStoreUnavailable || err.RetryAfter <= 0 {
			t.Fatalf("an unknown value: %v", err)
		}
		return strings.Contains(b.get(t, "/metrics"), `secretbroker_store_breakers_open{kind="AZURE_KEY_VAULT"} 1`)
	})
	if v, err := ask("postgres-password"); err != nil || !v.Stale {
		t.Errorf("while the vault is taken for dead: %+v, %v", v, err)
	}
	vaultLine.restore(t)
	asynctest.Eventually(t, "the vault is read again", func() bool {
		v, err := ask("postgres-password")
		return err == nil && !v.Stale && v.FetchTime.After(first.FetchTime)
	})
	if _, err := ask("sqlserver-db-secret"); err != nil {
		t.Errorf("after the outage: %v", err)
	}
	if page := b.get(t, "/metrics"); !strings.Contains(page, `secretbroker_store_breakers_open{kind="AZURE_KEY_VAULT"} 0`) ||
		!strings.Contains(page, `secretbroker_store_breaker_opens_total{kind="AZURE_KEY_VAULT"} 1`) ||
		!strings.Contains(page, `secretbroker_store_reads_waiting{kind="AZURE_KEY_VAULT"} 0`) ||
		!strings.Contains(page, `secretbroker_store_throttled_total{kind="AZURE_KEY_VAULT"} 0`) {
		t.Errorf("metrics:\n%s", page)
	}
}

// net/http tells the standard logger what a store has sent beyond its answer, and
// that may be a part of a secret.
func TestStandardLoggerIsSilent(t *testing.T) {
	b := newBroker(t, nil)
	if _, err := b.as(t, b.Worker).Resolve(t.Context(), request("p", vault+"::postgres-password")); err != nil {
		t.Error(err)
	}
	if log.Writer() != io.Discard {
		t.Error("the standard logger writes")
	}
}
