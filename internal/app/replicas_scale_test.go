//go:build unix

package app

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// vaultOf returns the content of a slow Key Vault with this number of secrets.
func vaultOf(secrets int) string {
	var b strings.Builder
	b.WriteString("vaults:\n  your-key-vault-name:\n    delay: 20ms\n    secrets:\n")
	for i := range secrets {
		fmt.Fprintf(&b, "      sqlserver-%d: {value: 'value %d'}\n", i, i)
	}
	return b.String()
}

// restart makes the call of a starting connector, for five secrets at once.
func restart(ctx context.Context, cl *client.Client, integration, first, secrets int) error {
	configs := make(map[string]string, 5)
	for i := range 5 {
		configs[fmt.Sprintf("config.%d", i)] = fmt.Sprintf("%s::sqlserver-%d", devmode.VaultURL, (first+i)%secrets)
	}
	res, err := cl.Resolve(ctx, client.ResolveRequest{IntegrationID: fmt.Sprintf("cspi-%d", integration), Connector: "sink", Configs: configs})
	if err == nil && len(res.Values) != 5 {
		err = fmt.Errorf("%d values", len(res.Values))
	}
	return err
}

// The number of store reads by the number of replicas, for docs/scaling.md: how many reads
// each balancing policy of a client causes.
func TestReadsAgainstReplicas(t *testing.T) {
	const integrations, secrets, calls = 12, 5, 240
	for _, replicas := range []int{1, 3, 5} {
		if replicas == 5 && os.Getenv("SECRETBROKER_SCALING") == "" {
			continue
		}
		c := newCluster(t, replicas)
		if err := replace(c.SecretsFile, vaultOf(secrets)); err != nil {
			t.Fatal(err)
		}
		for i := range integrations {
			c.create(fmt.Sprintf("cspi-%d", i))
		}
		for _, r := range c.replicas {
			direct := c.client(nil, r)
			c.await("all replicas have the integrations", func() bool {
				_, err := direct.Resolve(t.Context(), client.ResolveRequest{
					IntegrationID: fmt.Sprintf("cspi-%d", integrations-1), AllowPartial: true,
					Configs: map[string]string{"p": devmode.VaultURL + "::sqlserver-missing"},
				})
				return err == nil
			})
		}
		for _, balance := range []client.Balance{client.BalanceIntegration, client.BalanceRoundRobin} {
			for _, r := range c.replicas { // to empty the caches
				c.stop(r, os.Interrupt)
				c.start(r)
			}
			cl := c.client(func(cfg *client.Config) { cfg.Balance = balance }, c.replicas...)
			c.await("the client is connected to all", func() bool { return ask(t.Context(), cl, "no-such") != nil })
			<-time.After(200 * time.Millisecond)
			before := c.KeyVault.Reads()
			for i := range calls {
				if err := restart(t.Context(), cl, (i+i/integrations)%integrations, 0, secrets); err != nil {
					t.Fatal(err)
				}
			}
			reads := c.KeyVault.Reads() - before
			t.Logf("%d replicas, %s: %d reads of %d secrets of %d integrations in %d calls", replicas, balance, reads, secrets, integrations, calls)
			most := int64(integrations * secrets)
			if balance == client.BalanceRoundRobin {
				most *= int64(replicas)
			} else if replicas > 1 {
				most += most / 2 // on a busy machine a connection may be late, and its calls use other replicas
			}
			if reads < integrations*secrets || reads > most {
				t.Errorf("%d replicas, %s: %d reads, want at most %d", replicas, balance, reads, most)
			}
		}
	}
}

// Ten thousand connectors that start at once, compared with the model in docs/scaling.md.
func TestHerdOfConnectors(t *testing.T) {
	if os.Getenv("SECRETBROKER_SCALING") == "" {
		t.Skip("a measurement: make scaling runs it")
	}
	const connectors, workers, integrations, secrets = 10_000, 50, 100, 20
	c := newCluster(t, 3)
	if err := replace(c.SecretsFile, vaultOf(secrets)); err != nil {
		t.Fatal(err)
	}
	for i := range integrations {
		c.create(fmt.Sprintf("cspi-%d", i))
	}
	for _, balance := range []client.Balance{client.BalanceIntegration, client.BalanceRoundRobin} {
		for _, r := range c.replicas { // to empty the caches
			c.stop(r, os.Interrupt)
			c.start(r)
		}
		clients := make([]*client.Client, workers)
		for i := range clients {
			clients[i] = c.client(func(cfg *client.Config) { cfg.Balance, cfg.Timeout, cfg.MaxAttempts = balance, time.Minute, 20 }, c.replicas...)
		}
		before := c.KeyVault.Reads()
		took, latest, failed := herd(connectors, clients, func(i int, cl *client.Client) error {
			return restart(context.Background(), cl, i%integrations, i/integrations, secrets)
		})
		reads := c.KeyVault.Reads() - before
		t.Logf("%s: %d connectors, cold: all answered after %v; the median after %v, the 99th of 100 after %v; %d failed; %d reads",
			balance, connectors, took, latest[connectors/2], latest[connectors*99/100], failed, reads)
		took, latest, failed = herd(connectors, clients, func(i int, cl *client.Client) error {
			return restart(context.Background(), cl, i%integrations, i/integrations, secrets)
		})
		t.Logf("%s: %d connectors, warm: all answered after %v; the median after %v, the 99th of 100 after %v; %d failed; %d reads",
			balance, connectors, took, latest[connectors/2], latest[connectors*99/100], failed, c.KeyVault.Reads()-before-reads)
		t.Logf("%s: steady: %.0f calls a second", balance, steady(clients, integrations, secrets))
		if failed > 0 {
			t.Errorf("%d connectors have not started", failed)
		}
	}
}

// herd makes all calls at once and returns the times at which they were answered, sorted.
func herd(n int, clients []*client.Client, call func(int, *client.Client) error) (took time.Duration, answered []time.Duration, failed int64) {
	var callers sync.WaitGroup
	var failures atomic.Int64
	answered = make([]time.Duration, n)
	start := make(chan struct{})
	var began time.Time
	for i := range n {
		callers.Go(func() {
			<-start
			if err := call(i, clients[i%len(clients)]); err != nil {
				failures.Add(1)
			}
			answered[i] = time.Since(began).Round(time.Millisecond)
		})
	}
	began = time.Now()
	close(start)
	callers.Wait()
	slices.Sort(answered)
	return answered[n-1], answered, failures.Load()
}

// steady returns the number of such calls per second that are answered when no call waits.
func steady(clients []*client.Client, integrations, secrets int) float64 {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	var callers sync.WaitGroup
	var answered atomic.Int64
	for n, cl := range clients {
		callers.Go(func() {
			for i := n; ctx.Err() == nil; i += len(clients) {
				if restart(ctx, cl, i%integrations, i/integrations, secrets) == nil {
					answered.Add(1)
				}
			}
		})
	}
	callers.Wait()
	return float64(answered.Load()) / 3
}
