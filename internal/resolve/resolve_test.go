package resolve_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/cache"
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
	reads   atomic.Int64
}

func (s *fakeStore) Fetch(_ context.Context, _ *registry.Integration, ref secret.Ref) (*secret.Secret, error) {
	s.reads.Add(1)
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
	return secret.New(version, began, time.Time{}, []byte(doc)), nil
}

type integrations map[string]*registry.Integration

func (m integrations) Get(id string) (*registry.Integration, error) {
	in, ok := m[id]
	if !ok {
		return nil, registry.ErrNotFound
	}
	return in, nil
}

func (m integrations) List() []*registry.Integration { return slices.Collect(maps.Values(m)) }

type bench struct {
	*resolve.Resolver
	store  *fakeStore
	audit  *safeBuffer
	broken *brokenAudit
	// integration is the one of integrations.
	integration  *registry.Integration
	integrations integrations
}

// safeBuffer is the audit log of concurrent calls.
type safeBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

// brokenAudit fails once told to.
type brokenAudit struct {
	resolve.AuditLog
	err error
}

func (a *brokenAudit) Write(ctx context.Context, events []audit.Event) error {
	if a.err != nil {
		return a.err
	}
	return a.AuditLog.Write(ctx, events)
}

func newBench(t *testing.T) *bench {
	t.Helper()
	return newBenchWith(t, resolve.Limits{})
}

func newBenchWith(t *testing.T, limits resolve.Limits) *bench {
	t.Helper()
	policy, err := authz.NewPolicy(secret.KindAzureKeyVault, []string{vault}, []authz.Grant{
		{Principals: []string{"spiffe://example.org/connect/*"}, Secrets: []string{"db-*", "plain"}},
		{Principals: []string{"spiffe://example.org/narrow"}, Secrets: []string{"db-secret"}, Keys: []string{"user"}},
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
		audit: &safeBuffer{},
	}
	log := audit.New(b.audit)
	t.Cleanup(func() { _ = log.Close() }) // safeBuffer cannot fail
	b.broken = &brokenAudit{AuditLog: log}
	b.integration = &registry.Integration{ID: "cspi", Revision: "1", Kind: secret.KindAzureKeyVault, Policy: policy}
	b.integrations = integrations{"cspi": b.integration}
	b.Resolver = resolve.New(resolve.Config{
		Integrations: b.integrations,
		Limits:       limits,
		Stores:       b.store,
		Cache:        values,
		Audit:        b.broken,
		CacheTTL:     time.Minute,
	})
	return b
}

func (b *bench) call(who authz.Principal, req resolve.Request) (*resolve.Result, error) {
	req.ID = "request-1"
	if req.IntegrationID == "" {
		req.IntegrationID = "cspi"
	}
	return b.Resolve(context.Background(), resolve.Caller{Principal: who, PeerAddress: "192.0.2.1:1", CertificateSerial: "ab"}, req)
}

// events returns the audit's lines since the last call of it.
func (b *bench) events(t *testing.T) []audit.Event {
	t.Helper()
	var events []audit.Event
	dec := json.NewDecoder(b.audit)
	for dec.More() {
		var e audit.Event
		if err := dec.Decode(&e); err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	return events
}

func TestResolve(t *testing.T) {
	refs := func(kv ...string) map[string]string {
		m := make(map[string]string)
		for i := 0; i < len(kv); i += 2 {
			m[kv[i]] = kv[i+1]
		}
		return m
	}
	tests := []struct {
		name    string
		who     authz.Principal
		req     resolve.Request
		want    map[string]string        // name -> value
		reasons map[string]secret.Reason // name -> reason; "" names the call as a whole
		audit   string                   // "config outcome reason source" per event
	}{
		{
			name:  "JSON key and whole secret",
			req:   resolve.Request{Configs: refs("p", vault+"::db-secret::password", "port", vault+"::DB-secret::port", "w", vault+"::plain")},
			want:  map[string]string{"p": "canary-password", "port": "1433", "w": "canary-plain"},
			audit: "p served  miss, port served  miss, w served  miss",
		},
		{
			name:    "a caller without a grant",
			who:     nobody,
			req:     resolve.Request{Configs: refs("p", vault+"::db-secret::password")},
			reasons: map[string]secret.Reason{"p": secret.ReasonAccessDenied},
			audit:   "p denied ACCESS_DENIED ",
		},
		{
			name:    "an integration that does not exist",
			req:     resolve.Request{IntegrationID: "unknown", Configs: refs("p", vault+"::db-secret::password")},
			reasons: map[string]secret.Reason{"p": secret.ReasonAccessDenied},
			audit:   "p denied ACCESS_DENIED ",
		},
		{
			name:    "a secret outside the grant",
			req:     resolve.Request{Configs: refs("p", vault+"::other-secret")},
			reasons: map[string]secret.Reason{"p": secret.ReasonAccessDenied},
			audit:   "p denied ACCESS_DENIED ",
		},
		{
			name:    "a vault that the integration does not list",
			req:     resolve.Request{Configs: refs("p", other+"::db-secret::password")},
			reasons: map[string]secret.Reason{"p": secret.ReasonStoreNotAllowed},
			audit:   "p denied STORE_NOT_ALLOWED ",
		},
		{
			name:    "a vault that the integration does not list, to a stranger",
			who:     nobody,
			req:     resolve.Request{Configs: refs("p", other+"::db-secret::password")},
			reasons: map[string]secret.Reason{"p": secret.ReasonAccessDenied},
			audit:   "p denied ACCESS_DENIED ",
		},
		{
			name: "every failing config is reported and none is served",
			req: resolve.Request{Configs: refs(
				"a", "pasted-password", "b", vault+"::db-missing", "c", vault+"::db-secret::nope", "d", vault+"::db-secret::user",
				"e", vault+"::plain::key", "f", vault+"::db-throttled", "g", vault+"::db-broken")},
			reasons: map[string]secret.Reason{
				"a": secret.ReasonInvalidReference, "b": secret.ReasonSecretNotFound, "c": secret.ReasonJSONKeyNotFound,
				"e": secret.ReasonSecretNotJSON, "f": secret.ReasonStoreThrottled, "g": secret.ReasonInternal,
			},
			audit: "a rejected INVALID_REFERENCE , b failed SECRET_NOT_FOUND , c failed JSON_KEY_NOT_FOUND miss, d withheld  miss, " +
				"e failed SECRET_NOT_JSON miss, f failed STORE_THROTTLED , g failed INTERNAL ",
		},
		{
			name:    "partial answers",
			req:     resolve.Request{AllowPartial: true, Configs: refs("b", vault+"::db-missing", "d", vault+"::db-secret::user")},
			want:    map[string]string{"d": "dbadmin"},
			reasons: map[string]secret.Reason{"b": secret.ReasonSecretNotFound},
			audit:   "b failed SECRET_NOT_FOUND , d served  miss",
		},
		{
			name:    "a grant of one key gives neither another nor the whole",
			who:     "spiffe://example.org/narrow",
			req:     resolve.Request{AllowPartial: true, Configs: refs("k", vault+"::db-secret::user", "o", vault+"::db-secret::password", "w", vault+"::db-secret")},
			want:    map[string]string{"k": "dbadmin"},
			reasons: map[string]secret.Reason{"o": secret.ReasonAccessDenied, "w": secret.ReasonAccessDenied},
			audit:   "k served  miss, o denied ACCESS_DENIED , w denied ACCESS_DENIED ",
		},
		{
			name:    "no configs",
			reasons: map[string]secret.Reason{"": secret.ReasonInvalidRequest},
			audit:   " rejected INVALID_REQUEST ",
		},
		{
			name:    "an integration id that is none",
			req:     resolve.Request{IntegrationID: "a:b", Configs: refs("p", vault+"::plain")},
			reasons: map[string]secret.Reason{"": secret.ReasonInvalidRequest},
			audit:   " rejected INVALID_REQUEST ",
		},
		{
			name:    "a negative max_age",
			req:     resolve.Request{MaxAge: ptr(-time.Second), Configs: refs("p", vault+"::plain")},
			reasons: map[string]secret.Reason{"": secret.ReasonInvalidRequest},
			audit:   " rejected INVALID_REQUEST ",
		},
		{
			name:    "too many references",
			req:     resolve.Request{Configs: many(129)},
			reasons: map[string]secret.Reason{"": secret.ReasonInvalidRequest},
			audit:   " rejected INVALID_REQUEST ",
		},
		{
			name:    "too many entries",
			req:     resolve.Request{Configs: many(1001)},
			reasons: map[string]secret.Reason{"": secret.ReasonInvalidRequest},
			audit:   " rejected INVALID_REQUEST ",
		},
		{
			name:    "a long connector name",
			req:     resolve.Request{Connector: strings.Repeat("x", resolve.MaxNameLen+1), Configs: refs("p", vault+"::plain")},
			reasons: map[string]secret.Reason{"": secret.ReasonInvalidRequest},
			audit:   " rejected INVALID_REQUEST ",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			who := tt.who
			if who == "" {
				who = worker
			}
			res, err := b.call(who, tt.req)
			got, reasons := make(map[string]string), make(map[string]secret.Reason)
			var failure *resolve.Failure
			switch {
			case errors.As(err, &failure):
				for _, c := range failure.Configs {
					reasons[c.Config] = c.Err.Reason
				}
			case err != nil:
				reasons[""] = secret.AsError(err).Reason
			default:
				for _, c := range res.Configs {
					got[c.Config] = c.Value.Reveal()
					if c.Version != version || c.FetchedAt.IsZero() || !c.ExpiresAt.After(c.FetchedAt) {
						t.Errorf("%s: version %q, fetched %v, expires %v", c.Config, c.Version, c.FetchedAt, c.ExpiresAt)
					}
				}
				for _, c := range res.Errors {
					reasons[c.Config] = c.Err.Reason
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(tt.want) && len(got)+len(tt.want) > 0 {
				t.Errorf("values %v, want %v", got, tt.want)
			}
			if fmt.Sprint(reasons) != fmt.Sprint(tt.reasons) && len(reasons)+len(tt.reasons) > 0 {
				t.Errorf("reasons %v, want %v", reasons, tt.reasons)
			}
			if text := b.audit.String(); strings.Contains(text, "canary") || strings.Contains(text, "pasted") {
				t.Errorf("the audit holds a value: %s", text)
			}
			var lines []string
			for _, e := range b.events(t) {
				source := e.Source
				if source == "shared" {
					source = "miss" // which of a call's own reads went first does not matter
				}
				lines = append(lines, fmt.Sprintf("%s %s %s %s", e.Config, e.Outcome, e.Reason, source))
				if e.RequestID != "request-1" || e.Principal != who || e.PeerAddress != "192.0.2.1:1" || e.CertificateSerial != "ab" || e.Method != "Resolve" || e.Time.IsZero() {
					t.Errorf("audit event %+v", e)
				}
			}
			if got := strings.Join(lines, ", "); got != tt.audit {
				t.Errorf("audit:\n got %s\nwant %s", got, tt.audit)
			}
		})
	}
}

func TestDecidedBeforeAnythingElse(t *testing.T) {
	b := newBench(t)
	if _, err := b.call(worker, resolve.Request{Configs: map[string]string{"p": vault + "::plain"}}); err != nil {
		t.Fatal(err)
	}
	before := b.store.reads.Load()
	for range 3 {
		if _, err := b.call(nobody, resolve.Request{Configs: map[string]string{"p": vault + "::plain", "q": vault + "::db-missing"}}); err == nil {
			t.Fatal("a cached value went to a caller without a grant")
		}
	}
	if n := b.store.reads.Load(); n != before {
		t.Errorf("a denied caller caused %d reads", n-before)
	}
}

func TestOneReadPerSecret(t *testing.T) {
	b := newBench(t)
	configs := map[string]string{"a": vault + "::db-secret::user", "b": vault + "::db-secret::password", "c": vault + "::DB-SECRET"}
	for range 3 {
		if _, err := b.call(worker, resolve.Request{Configs: configs}); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.store.reads.Load(); n != 1 {
		t.Errorf("%d reads, want 1", n)
	}
	events := b.events(t)
	if got := events[len(events)-1].Source; got != "hit" {
		t.Errorf("source %q, want hit", got)
	}
}

func TestNothingLeavesUnaudited(t *testing.T) {
	b := newBench(t)
	b.broken.err = errors.New("disk full")
	res, err := b.call(worker, resolve.Request{AllowPartial: true, Configs: map[string]string{"p": vault + "::plain"}})
	if res != nil || err == nil {
		t.Fatalf("got %v, %v", res, err)
	}
	if e := secret.AsError(err); e.Reason != secret.ReasonAuditUnavailable || !errors.Is(err, b.broken.err) {
		t.Errorf("got %v", err)
	}
	if _, err := b.call(worker, resolve.Request{}); secret.AsError(err).Reason != secret.ReasonAuditUnavailable {
		t.Errorf("a rejected request that cannot be recorded: %v", err)
	}
}

func TestBrokenRegistryDenies(t *testing.T) {
	b := newBench(t)
	r := resolve.New(resolve.Config{Integrations: failingIntegrations{}, Stores: b.store, Audit: b.broken})
	_, err := r.Resolve(t.Context(), resolve.Caller{Principal: worker}, resolve.Request{IntegrationID: "cspi", Configs: map[string]string{"p": vault + "::plain"}})
	if secret.AsError(err).Reason != secret.ReasonInternal {
		t.Errorf("got %v", err)
	}
}

type failingIntegrations struct{ integrations }

func (failingIntegrations) Get(string) (*registry.Integration, error) {
	return nil, errors.New("the database is away")
}

func many(n int) map[string]string {
	m := make(map[string]string, n)
	for i := range n {
		m[fmt.Sprint("c", i)] = vault + "::plain"
	}
	return m
}

func ptr[T any](v T) *T { return &v }
