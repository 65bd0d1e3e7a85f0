package trust

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"

	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
)

const brokerID = "spiffe://example.org/broker"

// agentWorld is a Store that watches an agent.
type agentWorld struct {
	world
	agent *trusttest.WorkloadAPI
}

func newAgentWorld(t *testing.T) *agentWorld {
	t.Helper()
	w := &agentWorld{world: world{t: t, ca: trusttest.NewCA(t, "example.org"), log: &asynctest.Buffer{}}, agent: trusttest.NewWorkloadAPI(t)}
	w.agent.Set(trusttest.Identity(t, w.ca, w.ca.Client(brokerID)))
	var err error
	if w.Store, err = OpenWorkloadAPI(t.Context(), w.config()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	changed := w.Changed()
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	w.wait(changed) // the watch first sends the current identity
	return w
}

func (w *agentWorld) config() WorkloadAPIConfig {
	cfg := WorkloadAPIConfig{Socket: w.agent.Socket, TrustDomain: spiffeid.RequireTrustDomainFromString("example.org"), Retry: 10 * time.Millisecond, Options: w.options()}
	cfg.Logger = slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	cfg.Poll = 10 * time.Millisecond
	return cfg
}

// push changes the agent's answer, and waits until the Store uses it.
func (w *agentWorld) push(answer *workload.X509SVIDResponse) {
	w.t.Helper()
	changed := w.Changed()
	w.agent.Set(answer)
	w.wait(changed)
}

func (w *agentWorld) wait(changed <-chan struct{}) {
	w.t.Helper()
	select {
	case <-changed:
	case <-time.After(10 * time.Second):
		w.t.Fatalf("the Store did not change; problems %q, log:\n%s", w.Problems(), w.log)
	}
}

// problem waits for a problem that contains what, or for no problems if what is empty.
func (w *agentWorld) problem(what string) {
	w.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		p := messages(w.Problems())
		if what == "" && p == "" || what != "" && strings.Contains(p, what) {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("problems %q, want %q", p, what)
		}
		<-time.After(time.Millisecond)
	}
}

// TestWorkloadAPI: certificate and authorities rotate with the agent's answers, and only
// workloads of the broker's trust domain are accepted.
func TestWorkloadAPI(t *testing.T) {
	w := newAgentWorld(t)
	worker := w.ca.Client("spiffe://example.org/a")
	if err := w.admits(worker); err != nil {
		t.Fatal(err)
	}
	if got := w.shown().URIs[0].String(); got != brokerID {
		t.Errorf("it shows %s", got)
	}
	// The answer contains the bundle of a federated trust domain, which the Store ignores.
	foreign := trusttest.NewCA(t, "example.com")
	renewed := w.ca.Client(brokerID)
	answer := trusttest.Identity(t, w.ca, renewed)
	answer.FederatedBundles = map[string][]byte{"spiffe://example.com": foreign.Cert.Raw}
	w.push(answer)
	if !w.shown().Equal(renewed.Leaf) {
		t.Error("the old certificate is shown")
	}
	if err := w.admits(foreign.Client("spiffe://example.org/a")); err == nil {
		t.Error("a client of a federated authority was accepted")
	}
	if err := w.admits(worker); err != nil {
		t.Error(err)
	}
	// The authority is replaced: its clients are refused at once.
	next := trusttest.NewCA(t, "example.org")
	w.push(trusttest.Identity(t, next, next.Client(brokerID)))
	if w.admits(worker) == nil || w.admits(next.Client("spiffe://example.org/a")) != nil {
		t.Error("the old authority is trusted, or the new one is not")
	}
}

// TestWorkloadAPIFaults: after an unusable answer of the agent, the last valid identity stays
// in effect, and the next valid one replaces it.
func TestWorkloadAPIFaults(t *testing.T) {
	tests := map[string]struct {
		do   func(w *agentWorld, good *workload.X509SVIDResponse)
		says string
	}{
		"the agent stops":           {func(w *agentWorld, _ *workload.X509SVIDResponse) { w.agent.Stop() }, "code = "},
		"no longer registered":      {func(w *agentWorld, _ *workload.X509SVIDResponse) { w.agent.Fail(codes.PermissionDenied) }, "PermissionDenied"},
		"a watch that fails":        {func(w *agentWorld, _ *workload.X509SVIDResponse) { w.agent.Fail(codes.InvalidArgument) }, "InvalidArgument"},
		"a watch that is cancelled": {func(w *agentWorld, _ *workload.X509SVIDResponse) { w.agent.Fail(codes.Canceled) }, "Canceled"},
		"an expired identity": {func(w *agentWorld, _ *workload.X509SVIDResponse) {
			svid := w.ca.Client(brokerID)
			w.agent.Set(trusttest.Identity(w.t, w.ca, w.ca.Issue(func(c *x509.Certificate) {
				c.URIs, c.NotAfter = svid.Leaf.URIs, time.Now().Add(-time.Second)
			})))
		}, "expired"},
		"an identity in another trust domain": {func(w *agentWorld, _ *workload.X509SVIDResponse) {
			w.agent.Set(trusttest.Identity(w.t, w.ca, w.ca.Client("spiffe://example.com/broker")))
		}, "no identity in the trust domain"},
		"no authorities": {func(w *agentWorld, good *workload.X509SVIDResponse) { good.Svids[0].Bundle = nil; w.agent.Set(good) }, "no authorities"},
		"key of another certificate": {func(w *agentWorld, good *workload.X509SVIDResponse) {
			good.Svids[0].X509SvidKey = trusttest.Identity(w.t, w.ca, w.ca.Client(brokerID)).Svids[0].X509SvidKey
			w.agent.Set(good)
		}, "does not match private key"},
		"half a key": {func(w *agentWorld, good *workload.X509SVIDResponse) {
			good.Svids[0].X509SvidKey = half(good.Svids[0].X509SvidKey)
			w.agent.Set(good)
		}, "cannot parse DER encoded private key"},
		"nothing": {func(w *agentWorld, _ *workload.X509SVIDResponse) { w.agent.Set(&workload.X509SVIDResponse{}) }, "no SVIDs"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newAgentWorld(t)
			worker, before := w.ca.Client("spiffe://example.org/a"), w.shown()
			bad := trusttest.Identity(t, w.ca, w.ca.Client(brokerID))
			key := trusttest.PEM("PRIVATE KEY", bytes.Clone(bad.Svids[0].X509SvidKey))
			changed := w.Changed()
			tt.do(w, bad)
			w.problem(tt.says)
			if !w.shown().Equal(before) || w.admits(worker) != nil {
				t.Error("the last valid identity is no longer in effect")
			}
			if w.Stats().ReloadFailures == 0 || !strings.Contains(w.log.String(), "level=ERROR") {
				t.Errorf("the log lacks an error: %s", w.log)
			}
			select {
			case <-changed:
				t.Error("the trust configuration changed")
			default:
			}
			if name == "the agent stops" {
				w.agent.Start()
			}
			next := w.ca.Client(brokerID)
			w.push(trusttest.Identity(t, w.ca, next))
			if !w.shown().Equal(next.Leaf) {
				t.Error("the next identity is not in effect")
			}
			w.problem("")
			noKeyIn(t, w.log.String(), [][]byte{key, trusttest.KeyPEM(t, next)})
		})
	}
}

// TestSilentAgent: if the agent sends no update, its last answer is trusted only until the
// broker's certificate expires.
func TestSilentAgent(t *testing.T) {
	w := newAgentWorld(t)
	worker := w.ca.Issue(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(20 * time.Hour) })
	peer := w.Peer([]*x509.Certificate{worker.Leaf})
	if err := peer.Check(); err != nil {
		t.Fatal(err)
	}
	w.agent.Stop()
	w.ahead.Store(int64(61 * time.Minute))
	if _, _, err := connect(t, w.TLSConfig(), &tls.Config{Certificates: []tls.Certificate{*worker}}); err == nil {
		t.Error("a client was accepted although the broker's certificate has expired")
	}
	if err := peer.Check(); err == nil || !strings.Contains(err.Error(), "not been confirmed") {
		t.Errorf("a connected client is still accepted: %v", err)
	}
	w.problem("own certificate expired")
}

func TestOpenWorkloadAPI(t *testing.T) {
	agent := trusttest.NewWorkloadAPI(t)
	ca := trusttest.NewCA(t, "example.org")
	cfg := WorkloadAPIConfig{Socket: agent.Socket, TrustDomain: spiffeid.RequireTrustDomainFromString("example.org"), StartTimeout: time.Second, Retry: 10 * time.Millisecond}
	open := func(what string) {
		t.Helper()
		if s, err := OpenWorkloadAPI(t.Context(), cfg); err == nil || s != nil || !strings.Contains(err.Error(), what) {
			t.Errorf("got %v, want %q", err, what)
		}
	}
	open("no identity issued")
	agent.Set(trusttest.Identity(t, ca, ca.Client("spiffe://example.com/broker")))
	open("no identity in the trust domain")
	agent.Stop()
	open("is the agent running")
	none := cfg
	none.TrustDomain = spiffeid.TrustDomain{}
	if _, err := OpenWorkloadAPI(t.Context(), none); err == nil {
		t.Error("OpenWorkloadAPI accepts an empty trust domain")
	}
	// An agent that starts later, within the timeout.
	cfg.StartTimeout = 0
	opened := make(chan error, 1)
	go func() {
		_, err := OpenWorkloadAPI(context.Background(), cfg)
		opened <- err
	}()
	agent.Set(trusttest.Identity(t, ca, ca.Client(brokerID)))
	agent.Start()
	if err := <-opened; err != nil {
		t.Error(err)
	}
}
