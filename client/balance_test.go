package client_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/metadata"

	"github.com/secretbroker/secretbroker/client"
	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// replicas are brokers that record which replica answered which call.
type replicas struct {
	brokers []*broker
	cfg     client.Config

	mu sync.Mutex
	// by has the replicas that answered an integration's calls.
	by map[string]map[int]int
	// headers has the integration headers of the calls.
	headers map[string]bool
}

func newReplicas(t *testing.T, n int, balance client.Balance) *replicas {
	t.Helper()
	authority := newCA("test CA")
	r := &replicas{by: make(map[string]map[int]int), headers: make(map[string]bool)}
	r.cfg = writeConfig(t.TempDir(), "", authority, "worker-1.test")
	r.cfg.Addrs = nil
	r.cfg.Balance = balance
	for i := range n {
		b := startBroker(authority, func(ctx context.Context, in *secretbrokerv1.ResolveRequest) (*secretbrokerv1.ResolveResponse, error) {
			r.record(ctx, i, in.GetIntegrationId())
			return echo(ctx, in)
		})
		b.watched.Store(func(ctx context.Context, in *secretbrokerv1.WatchRequest) *secretbrokerv1.WatchResponse {
			var ids []string
			for _, set := range in.GetSets() {
				ids = append(ids, set.GetIntegrationId())
			}
			r.record(ctx, i, strings.Join(slices.Compact(ids), " "))
			return &secretbrokerv1.WatchResponse{Complete: true}
		})
		t.Cleanup(b.stop)
		r.brokers = append(r.brokers, b)
		r.cfg.Addrs = append(r.cfg.Addrs, b.addr)
	}
	return r
}

// record notes that a replica answered a call.
func (r *replicas) record(ctx context.Context, replica int, integration string) {
	md, _ := metadata.FromIncomingContext(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.by[integration] == nil {
		r.by[integration] = make(map[int]int)
	}
	r.by[integration][replica]++
	r.headers[strings.Join(md.Get("x-secretbroker-integration"), ",")] = true
}

// ask makes calls for several integrations, several for each.
func (r *replicas) ask(t *testing.T, c *client.Client, integrations, times int) {
	t.Helper()
	for n := range integrations * times {
		req := client.ResolveRequest{IntegrationID: fmt.Sprint("i", n%integrations), Configs: map[string]string{"a": "b"}}
		if _, err := c.Resolve(t.Context(), req); err != nil {
			t.Fatalf("call %d: %v", n, err)
		}
	}
}

// answered returns the number of calls that each replica answered, and the number of
// integrations that more than one replica answered.
func (r *replicas) answered() (calls []int, shared int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	calls = make([]int, len(r.brokers))
	for _, by := range r.by {
		if len(by) > 1 {
			shared++
		}
		for i, n := range by {
			calls[i] += n
		}
	}
	clear(r.by)
	return calls, shared
}

func (r *replicas) client(t *testing.T) *client.Client {
	t.Helper()
	c, err := client.New(r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// settle makes calls until all replicas have a connection.
func (r *replicas) settle(t *testing.T, c *client.Client) {
	t.Helper()
	for n := 0; ; n++ {
		connected := 0
		for _, b := range r.brokers {
			connected += min(1, b.connections())
		}
		if connected == len(r.brokers) {
			break
		}
		req := client.ResolveRequest{IntegrationID: fmt.Sprint("other", n), Configs: map[string]string{"a": "b"}}
		if _, err := c.Resolve(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	r.answered()
}

func TestBalanceIntegration(t *testing.T) {
	t.Parallel()
	r := newReplicas(t, 3, client.BalanceIntegration)
	c := r.client(t)
	r.settle(t, c)
	r.ask(t, c, 60, 3)
	calls, shared := r.answered()
	if shared != 0 {
		t.Errorf("%d integrations were answered by more than one replica", shared)
	}
	for i, n := range calls {
		if n == 0 {
			t.Errorf("replica %d answered no calls: %v", i, calls)
		}
	}
	if r.headers[""] || !r.headers["i1"] {
		t.Errorf("headers: %v", r.headers)
	}
	r.brokers[0].stop()
	r.ask(t, c, 60, 2)
	if calls, _ := r.answered(); calls[0] != 0 || calls[1] == 0 || calls[2] == 0 {
		t.Errorf("after the end of replica 0: %v", calls)
	}
}

// A Watch of one integration goes to the replica of its calls, and one of several to any.
func TestBalanceWatch(t *testing.T) {
	t.Parallel()
	r := newReplicas(t, 3, client.BalanceIntegration)
	c := r.client(t)
	r.settle(t, c)
	for _, ids := range [][]string{{"i1", "i1"}, {"i2"}, {"i1", "i2"}, {"i3"}} {
		var sets []client.WatchSet
		for _, id := range ids {
			sets = append(sets, client.WatchSet{IntegrationID: id, Configs: map[string]string{"a": "b"}})
		}
		for _, err := range c.Watch(t.Context(), client.WatchRequest{Sets: sets}) {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	r.ask(t, c, 3, 1)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range []string{"i1", "i2"} {
		if by := r.by[id]; len(by) != 1 {
			t.Errorf("%s was answered by several replicas: %v", id, by)
		}
	}
	if by := r.by["i1 i2"]; len(by) != 1 || !r.headers[""] || !r.headers["i3"] {
		t.Errorf("the Watch of both: %v, headers %v", by, r.headers)
	}
}

func TestBalanceRoundRobin(t *testing.T) {
	t.Parallel()
	r := newReplicas(t, 3, client.BalanceRoundRobin)
	c := r.client(t)
	r.settle(t, c)
	r.ask(t, c, 1, 90)
	calls, _ := r.answered()
	for i, n := range calls {
		if n < 15 { // a connection may have started later
			t.Errorf("replica %d answered %d of 90 calls: %v", i, n, calls)
		}
	}
	if !r.headers[""] || len(r.headers) != 1 {
		t.Errorf("unexpected headers: %v", r.headers)
	}
}

func TestBalanceNone(t *testing.T) {
	t.Parallel()
	r := newReplicas(t, 2, client.BalanceNone)
	c := r.client(t)
	r.ask(t, c, 10, 2)
	calls, _ := r.answered()
	if calls[0] != 20 && calls[1] != 20 {
		t.Errorf("more than one replica answered: %v", calls)
	}
	r.brokers[0].stop()
	r.ask(t, c, 10, 2)
}

func TestBalanceConfig(t *testing.T) {
	t.Parallel()
	cfg := writeConfig(t.TempDir(), "127.0.0.1:1", newCA("x"), "worker-1.test")
	cfg.Balance = "random"
	if _, err := client.New(cfg); err == nil || !strings.Contains(err.Error(), `"random"`) {
		t.Errorf("an unknown Balance: %v", err)
	}
	cfg.Balance, cfg.Addrs = client.BalanceRoundRobin, []string{"broker-2"}
	if _, err := client.New(cfg); err == nil || !strings.Contains(err.Error(), `"broker-2"`) {
		t.Errorf("a replica without a port: %v", err)
	}
}
