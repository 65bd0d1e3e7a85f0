package manage_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/denial"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/manage"
	"github.com/secretbroker/secretbroker/internal/placement"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry/seal"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	orgOwner    = authz.Principal("spiffe://example.org/ops/owner")
	orgAssigner = authz.Principal("spiffe://example.org/ops/assigner")
	orgAuditor  = authz.Principal("spiffe://example.org/ops/auditor")
	owner       = authz.Principal("spiffe://example.org/teams/cdc/owner")
	assigner    = authz.Principal("spiffe://example.org/teams/cdc/assigner")
	auditor     = authz.Principal("spiffe://example.org/teams/cdc/auditor")
	worker      = authz.Principal("spiffe://example.org/connect/worker-1")
	vault       = "https://your-key-vault-name.vault.azure.net"
	canary      = "canary-client-secret"
)

var now = time.Date(2027, 1, 10, 12, 0, 0, 0, time.UTC)

// bench is a Service over a SQLite database.
type bench struct {
	*manage.Service
	store *sqlstore.Store
	keys  *seal.Keys
	audit *recordedAudit
	cfg   manage.Config
}

// recordedAudit is an audit log in memory that can fail.
type recordedAudit struct {
	mu     sync.Mutex
	events []audit.Event
	// refused is the number of events that may be counted.
	refused int
	broken  func(audit.Event) bool
}

func (a *recordedAudit) Write(_ context.Context, events []audit.Event) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range events {
		if a.broken != nil && a.broken(e) {
			return errors.New("the disk is full")
		}
	}
	a.events = append(a.events, events...)
	return nil
}

func (a *recordedAudit) Refuse(ctx context.Context, events []audit.Event) error {
	a.mu.Lock()
	a.refused += len(events)
	a.mu.Unlock()
	return a.Write(ctx, events)
}

// take returns the records since its last call, each as "method outcome reason".
func (a *recordedAudit) take(t *testing.T) (lines []string, events []audit.Event) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.events {
		data, err := json.Marshal(e)
		if err != nil || bytes.Contains(data, []byte("canary")) {
			t.Errorf("a record shows a credential, or cannot be written: %s, %v", data, err)
		}
		line := e.Method + " " + string(e.Outcome)
		if e.Reason != "" {
			line += " " + string(e.Reason)
		}
		lines = append(lines, line)
	}
	events, a.events = a.events, nil
	return lines, events
}

func newBench(t *testing.T, rules placement.Config) *bench {
	t.Helper()
	keyFile := filepath.Join(t.TempDir(), "registry.key")
	if err := seal.Create(keyFile); err != nil {
		t.Fatal(err)
	}
	keys, err := seal.Open(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	clock := func() time.Time { return now }
	denials := denial.NewSet()
	store, err := sqlstore.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "registry.db"), sqlstore.Config{Kinds: kinds.All(), Sealer: keys, MaxIntegrations: 5, Now: clock,
		OnDenials: func(l *denial.List) { denials.Put(denial.FromDatabase, l) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	roles, err := authz.NewRoles(map[authz.Role][]string{
		authz.ResourceOwner: {string(orgOwner)}, authz.Assigner: {string(orgAssigner)}, authz.Auditor: {string(orgAuditor)},
	})
	if err != nil {
		t.Fatal(err)
	}
	places, err := placement.New(rules)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{store: store, keys: keys, audit: &recordedAudit{}}
	b.cfg = manage.Config{
		Kinds: kinds.All(), Denials: denials, DenialStore: store,
		Store: store, Usage: store, Audit: b.audit, Roles: func() *authz.Roles { return roles }, Placement: places, Now: clock,
		Validate: func(context.Context, *integration.Integration) []provider.Step {
			return []provider.Step{{Step: provider.StepToken, Found: "obtained"}, {Step: provider.StepReadStore, Store: vault, Err: secret.Errorf(secret.ReasonStoreAccessDenied, "assign the role")}}
		},
	}
	b.Service = manage.New(b.cfg)
	return b
}

// newSampleBench returns a bench with the sample as "cspi".
func newSampleBench(t *testing.T) *bench {
	t.Helper()
	b := newBench(t, placement.Config{})
	b.create(t, "cspi")
	return b
}

// fault is the error of a call, without its answer.
func fault[T any](_ T, err error) error { return err }

func as(who authz.Principal) manage.Caller {
	return manage.Caller{RequestID: "r", Principal: who, PeerAddress: "192.0.2.1:1", CertificateSerial: "ab"}
}

// sample is an integration whose roles are the team's.
func sample(t *testing.T, id string) manage.Document {
	t.Helper()
	f := kinds.All().DecodeDocument("sample", []byte(`id: `+id+`
display_name: SQL Server CDC
kind: AZURE_KEY_VAULT
azure:
  tenant_id: 8d3f6a52-1c0b-4a7e-9f25-6b1e0c9d4a10
  client_id: c2a97b14-5e6d-4f38-8b0a-73d5e1f2a649
  credential: {type: client_secret}
  vaults: [`+vault+`]
placement: {region: westeurope}
grants:
  - principals: [spiffe://example.org/connect/*]
    secrets: [sqlserver-*]
roles:
  resource_owner: [`+string(owner)+`]
  assigner: [`+string(assigner)+`]
  auditor: [`+string(auditor)+`]
`))
	if err := f.Faults.Err(); err != nil {
		t.Fatal(err)
	}
	return f.Document
}

func credentials() map[string]secret.Value {
	return map[string]secret.Value{"azure.credential.client_secret": secret.NewValue([]byte(canary))}
}

// change changes the settings of a document.
func change(t *testing.T, f *manage.Document, change func(map[string]any)) {
	t.Helper()
	s := f.Settings()
	change(s)
	if err := f.SetSettings(s); err != nil {
		t.Fatal(err)
	}
}

// create makes the sample.
func (b *bench) create(t *testing.T, id string) manage.Integration {
	t.Helper()
	in, err := b.Create(t.Context(), as(orgOwner), sample(t, id), credentials(), manage.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b.audit.take(t)
	return in
}

func (b *bench) get(t *testing.T, id string) manage.Integration {
	t.Helper()
	in, err := b.Get(t.Context(), as(orgOwner), id)
	if err != nil {
		t.Fatal(err)
	}
	b.audit.take(t)
	return in
}

func reasonOf(err error) secret.Reason {
	if err == nil {
		return ""
	}
	return secret.AsError(err).Reason
}
