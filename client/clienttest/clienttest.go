// Package clienttest provides a broker for tests of programs that use package client.
//
// The broker runs in the test's process, listens on 127.0.0.1 and requires a client
// certificate, like a real one. It parses references, selects JSON keys, decides about access
// and reports errors with the code of the real broker; only the stores are replaced by the
// values that the test sets. So a test sees the reasons, the messages and the details that its
// program will see.
//
//	func TestConnect(t *testing.T) {
//		b := clienttest.NewBroker(t)
//		b.Set("sqlserver-prod", "https://my-vault.vault.azure.net::db", `{"password":"hunter2"}`)
//		connect(b.Client())
//	}
//
// Resolve, Check, Watch and Follow work as with a real broker: Set and SetSecret change a
// secret, which clients that watch it are told at once, Deny and Allow change the access to an
// integration, and Stop and Start the availability of the broker. Other calls are not served.
// Package client does not import this package, which needs
// more modules than the client itself.
package clienttest

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/server"
	"github.com/secretbroker/secretbroker/internal/trust"
	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
	"github.com/secretbroker/secretbroker/internal/watch"
)

// Principal is the caller that the certificate of Config and Client identifies.
const Principal = "spiffe://example.org/clienttest"

// Broker is a broker with the values that the test sets. It is safe for concurrent use.
type Broker struct {
	t        testing.TB
	config   client.Config
	trust    *trust.Store
	resolver *resolve.Resolver
	hub      *watch.Hub

	mu           sync.Mutex
	stop         func() // nil while the broker is stopped
	integrations map[string]*integrationState
	changes      int // the number of changes, for revisions
}

type integrationState struct {
	in      *integration.Integration
	stores  map[string]bool
	secrets map[secret.Ref]Secret
	numbers map[secret.Ref]numbered // of versions
	denied  bool
}

// numbered is the last version that has a number.
type numbered struct {
	n     int
	value []byte
}

// Secret is what a store returns for a reference.
type Secret struct {
	// Value is the whole secret; a JSON document for references with a JSON key.
	Value []byte
	// Version is the store's identifier of the version; empty means a number that grows with
	// every other Value, from "1".
	Version string
	// ExpireTime is the end of the secret's own validity; zero means that it has none.
	ExpireTime time.Time
	// Reason, unless empty, makes reads of the secret fail with this reason, for example
	// client.ReasonStoreUnavailable.
	Reason client.Reason
}

// NewBroker starts a broker without integrations, which denies every request. It ends with
// the test.
func NewBroker(t testing.TB) *Broker {
	t.Helper()
	b := &Broker{t: t, hub: watch.New(watch.Config{}), integrations: make(map[string]*integrationState)}
	var err error
	dir := t.TempDir()
	ca := trusttest.NewCA(t, "clienttest")
	own, caller := ca.Server(), ca.Client(Principal)
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	b.config = client.Config{
		CAFile:   file("ca.pem", ca.PEM()),
		CertFile: file("tls.pem", trusttest.CertPEM(caller)),
		KeyFile:  file("tls-key.pem", trusttest.KeyPEM(t, caller)),
	}
	b.trust, err = trust.OpenFiles(trust.FilesConfig{
		CertFile:     file("broker.pem", trusttest.CertPEM(own)),
		KeyFile:      file("broker-key.pem", trusttest.KeyPEM(t, own)),
		ClientCAFile: b.config.CAFile,
	})
	if err != nil {
		t.Fatal(err)
	}
	b.begin()
	b.start("127.0.0.1:0")
	t.Cleanup(b.Stop)
	return b
}

// begin makes what answers calls, until the end of the test.
func (b *Broker) begin() {
	b.t.Helper()
	values, err := cache.New(cache.Config{Loaded: b.hub.Loaded, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(values.Close)
	b.resolver = resolve.New(resolve.Config{Integrations: (*integrations)(b), Stores: (*stores)(b), Cache: values, CacheTTL: 5 * time.Minute, Audit: noAudit{}, Hub: b.hub})
	b.hub.SetReader(b.resolver)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = b.hub.Run(ctx) })
	b.t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

// start serves calls at an address until Stop.
func (b *Broker) start(addr string) {
	b.t.Helper()
	s, err := server.New(server.Config{
		Resolver: b.resolver, Watcher: b.resolver, Trust: b.trust, Logger: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		b.t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(listener) }()
	if b.config.Addrs == nil { // Start uses the same address, while others read the config
		b.config.Addrs = []string{listener.Addr().String()}
	}
	b.stop = func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // do not wait for calls in progress
		s.Shutdown(ctx)
		if err := <-served; err != nil {
			b.t.Errorf("clienttest: %v", err)
		}
	}
}

// Stop makes the broker unreachable: it ends all calls and connections.
func (b *Broker) Stop() {
	b.mu.Lock()
	stop := b.stop
	b.stop = nil
	b.mu.Unlock()
	if stop != nil { // without the lock: the calls that end need it
		stop()
	}
}

// Start makes the broker reachable again after Stop, at the same address.
func (b *Broker) Start() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stop == nil {
		b.start(b.config.Addrs[0])
	}
}

// Config returns the configuration of a client whose certificate identifies Principal. The
// files are in a directory that is removed at the end of the test.
func (b *Broker) Config() client.Config { return b.config }

// Client returns a client with Config, which is closed at the end of the test.
func (b *Broker) Client() *client.Client {
	b.t.Helper()
	c, err := client.New(b.config)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = c.Close() })
	return c
}

// Set sets the current version of a secret. The reference names the whole secret, without a
// JSON key; to let clients request keys, set a JSON document. Set creates the integration if
// there is none, and allows Principal to read everything in it. Requests for other secrets of
// the integration fail with SECRET_NOT_FOUND, and for other integrations with ACCESS_DENIED.
// A change takes effect at once: the broker does not answer with cached values of before, and
// tells the clients that watch the secret.
func (b *Broker) Set(integrationID, reference, value string) {
	b.t.Helper()
	b.SetSecret(integrationID, reference, Secret{Value: []byte(value)})
}

// SetSecret is Set with a version and an expiry, or with a failure.
func (b *Broker) SetSecret(integrationID, reference string, s Secret) {
	b.t.Helper()
	ref, err := secret.ParseRef(reference)
	if err != nil {
		b.t.Fatalf("clienttest: the reference is not valid: %v", err)
	}
	if ref.Key != "" || ref.Decoding != "" {
		b.t.Fatalf("clienttest: set the whole secret, with a reference without a JSON key and options")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	state := b.integrations[integrationID]
	if state == nil {
		state = &integrationState{stores: make(map[string]bool), secrets: make(map[secret.Ref]Secret), numbers: make(map[secret.Ref]numbered)}
		b.integrations[integrationID] = state
	} else if state.in.Kind != ref.Kind {
		b.t.Fatalf("clienttest: the integration %s has secrets of the kind %s; use another integration for %s", integrationID, state.in.Kind, ref.Kind)
	}
	if s.Version == "" {
		last := state.numbers[ref]
		if s.Reason == "" && (last.n == 0 || !bytes.Equal(last.value, s.Value)) {
			last = numbered{last.n + 1, s.Value}
			state.numbers[ref] = last
		}
		s.Version = strconv.Itoa(max(last.n, 1))
	}
	state.stores[ref.Store] = true
	state.secrets[ref] = s
	b.change(integrationID, ref.Kind, state)
	load := cache.Load{
		Key:      cache.Key{Integration: integrationID, Revision: state.in.ReadRevision, Store: ref.Store, Name: ref.Name, Version: ref.Version},
		Concerns: func(suffix string) bool { return suffix == ref.Suffix },
		Version:  s.Version, ExpiresAt: s.ExpireTime, ReadAt: time.Now(),
	}
	if s.Reason != "" {
		load.Version, load.ExpiresAt, load.Err = "", time.Time{}, s.err()
	}
	b.hub.Loaded(load)
	b.hub.IntegrationsChanged(nil, []*integration.Integration{state.in})
}

// Deny takes away the access to an integration, which Set has created: requests fail with
// ACCESS_DENIED, and clients that watch its secrets are told.
func (b *Broker) Deny(integrationID string) { b.setDenied(integrationID, true) }

// Allow gives back the access that Deny has taken away.
func (b *Broker) Allow(integrationID string) { b.setDenied(integrationID, false) }

func (b *Broker) setDenied(integrationID string, denied bool) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	state := b.integrations[integrationID]
	if state == nil {
		b.t.Fatalf("clienttest: there is no integration %s; Set creates it", integrationID)
	}
	state.denied = denied
	b.change(integrationID, state.in.Kind, state)
	b.hub.IntegrationsChanged(nil, []*integration.Integration{state.in})
}

// change makes an integration that allows Principal to read everything in its stores, unless
// it is denied. It requires the lock.
func (b *Broker) change(id string, kind secret.Kind, state *integrationState) {
	b.t.Helper()
	var all []string
	for store := range state.stores {
		all = append(all, store)
	}
	var grants []authz.Grant
	if !state.denied {
		grants = []authz.Grant{{ID: "clienttest", Principals: []string{Principal}}}
	}
	policy, err := authz.NewPolicy(kind, all, grants)
	if err != nil {
		b.t.Fatalf("clienttest: %v", err)
	}
	b.changes++
	revision := strconv.Itoa(b.changes)
	state.in = &integration.Integration{ID: id, Kind: kind, Revision: revision, ReadRevision: revision, Policy: policy}
}

// err returns the failure of reads.
func (s *Secret) err() *secret.Error {
	return secret.Errorf(secret.Reason(s.Reason), "clienttest: the test has set this failure")
}

// integrations are the integrations of a Broker.
type integrations Broker

// Get implements resolve.Integrations.
func (b *integrations) Get(id string) (*integration.Integration, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if state := b.integrations[id]; state != nil {
		return state.in, nil
	}
	return nil, registry.ErrNotFound
}

// List implements resolve.Integrations.
func (b *integrations) List() []*integration.Integration {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []*integration.Integration
	for _, state := range b.integrations {
		all = append(all, state.in)
	}
	return all
}

// stores are the stores with the values of a Broker.
type stores Broker

// Fetch implements resolve.Stores.
func (s *stores) Fetch(_ context.Context, in *integration.Integration, ref secret.Ref) (*secret.Secret, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, ok := s.integrations[in.ID].secrets[ref.Secret()]
	switch {
	case !ok:
		return nil, secret.Errorf(secret.ReasonSecretNotFound, "clienttest: the test has set no such secret in this integration")
	case found.Reason != "":
		return nil, found.err()
	}
	return secret.New(found.Version, time.Now(), found.ExpireTime, append([]byte(nil), found.Value...)), nil
}

// noAudit is an audit log that keeps nothing.
type noAudit struct{}

func (noAudit) Begin([]audit.Event) (audit.Receipt, audit.Position, error) {
	return audit.Receipt{}, audit.Position{}, nil
}
