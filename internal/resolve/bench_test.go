package resolve_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	vault   = "https://my-vault.vault.azure.net"
	other   = "https://other-vault.vault.azure.net"
	version = "0123456789abcdef0123456789abcdef"
	worker  = authz.Principal("spiffe://example.org/connect/worker-1")
	nobody  = authz.Principal("spiffe://example.org/elsewhere/worker-1")
)

// fakeStore answers from a map and counts reads.
type fakeStore struct {
	mu      sync.Mutex
	secrets map[string]string // name -> document
	errs    map[string]error
	delay   time.Duration
	expires time.Time // of every secret
	reads   atomic.Int64
	onFetch func() // nil does nothing
}

func (s *fakeStore) Fetch(_ context.Context, _ *integration.Integration, ref secret.Ref) (*secret.Secret, error) {
	s.reads.Add(1)
	if s.onFetch != nil {
		s.onFetch()
	}
	began := time.Now()
	<-time.After(s.delay)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.errs[ref.Name]; err != nil {
		return nil, err
	}
	doc, ok := s.secrets[ref.Name]
	if !ok {
		return nil, secret.Errorf(secret.ReasonSecretNotFound, "no such secret")
	}
	return secret.New(version, began, s.expires, []byte(doc)), nil
}

type integrations map[string]*integration.Integration

func (m integrations) Get(id string) (*integration.Integration, error) {
	in, ok := m[id]
	if !ok {
		return nil, registry.ErrNotFound
	}
	return in, nil
}

func (m integrations) List() []*integration.Integration { return slices.Collect(maps.Values(m)) }

type bench struct {
	admit func(authz.Principal, *integration.Integration) string // nil admits all callers
	*resolve.Resolver
	store  *fakeStore
	audit  *asynctest.Buffer
	broken *brokenAudit
	cache  *cache.Cache
	// integration is the only one in integrations.
	integration  *integration.Integration
	integrations integrations
}

// brokenAudit fails if err is set.
type brokenAudit struct {
	resolve.AuditLog
	err error
}

func (a *brokenAudit) Begin(events []audit.Event) (audit.Receipt, audit.Position, error) {
	if a.err != nil {
		return audit.Receipt{}, audit.Position{}, a.err
	}
	return a.AuditLog.Begin(events)
}

// newBench returns a bench. changes modify the Resolver's Config.
func newBench(t *testing.T, changes ...func(*resolve.Config)) *bench {
	t.Helper()
	policy, err := authz.NewPolicy(secret.KindAzureKeyVault, []string{vault}, []authz.Grant{
		{ID: "g0", Principals: []string{"spiffe://example.org/connect/*"}, Secrets: []string{"db-*", "plain"}},
		{ID: "g1", Principals: []string{"spiffe://example.org/narrow"}, Secrets: []string{"db-secret"}, Keys: []string{"user"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	values, err := cache.New(cache.Config{MaxBytes: 1 << 20, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(values.Close)
	b := &bench{
		store: &fakeStore{
			secrets: map[string]string{
				"db-secret": `{"user":"dbadmin","password":"canary-password","port":1433}`,
				"plain":     "canary-plain",
			},
			errs: map[string]error{
				"db-throttled": secret.Errorf(secret.ReasonStoreThrottled, "wait"),
				"db-broken":    errors.New("something unforeseen: canary-cause"),
			},
		},
		audit: &asynctest.Buffer{},
		cache: values,
	}
	log := audit.New(b.audit)
	t.Cleanup(func() { _ = log.Close() }) // asynctest.Buffer cannot fail
	b.broken = &brokenAudit{AuditLog: log}
	b.integration = &integration.Integration{ID: "cspi", UID: "uid-of-cspi", Revision: "r1", ReadRevision: "1", Kind: secret.KindAzureKeyVault, Policy: policy}
	b.integrations = integrations{"cspi": b.integration}
	config := resolve.Config{
		Integrations: b.integrations,
		Stores:       b.store,
		Cache:        values,
		Audit:        b.broken,
		CacheTTL:     time.Minute,
		Admit: func(who authz.Principal, in *integration.Integration) string {
			if b.admit == nil {
				return ""
			}
			return b.admit(who, in)
		},
	}
	for _, change := range changes {
		change(&config)
	}
	b.Resolver = resolve.New(config)
	return b
}

func (b *bench) call(who authz.Principal, req resolve.Request) (*resolve.Result, error) {
	req.ID = "request-1"
	if req.IntegrationID == "" {
		req.IntegrationID = "cspi"
	}
	return b.Resolve(context.Background(), resolve.Caller{Principal: who, PeerAddress: "192.0.2.1:1", CertificateSerial: "ab"}, req)
}

// events returns the audit events since its previous call.
func (b *bench) events(t *testing.T) []audit.Event {
	t.Helper()
	var events []audit.Event
	dec := json.NewDecoder(strings.NewReader(b.audit.Take()))
	for dec.More() {
		var e audit.Event
		if err := dec.Decode(&e); err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	return events
}
