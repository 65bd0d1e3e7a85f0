package resolve_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/replica"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/watch"
)

const rotator = authz.Principal("spiffe://example.org/ops/rotator")

// watchBench is a bench whose Hub runs. The store's version is in the field version.
type watchBench struct {
	*bench
	hub     *watch.Hub
	stores  *versioned
	changed sync.Mutex // guards the integrations
	others  confirmed
}

// confirmed is the Replicas of a test. It has the reads of the last Confirm.
type confirmed struct {
	mu    sync.Mutex
	reads []replica.Read
}

func (*confirmed) Saw(replica.Key, string, string) {}

func (*confirmed) SawNone(replica.Key, string) {}

func (c *confirmed) Confirm(_ context.Context, reads []replica.Read) replica.Coverage {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reads = reads
	return replica.Coverage{State: replica.AllReplicas}
}

// versioned is a store whose secrets have the version that the test sets.
type versioned struct {
	*fakeStore
	version string
	slow    string // the name of a secret whose read takes five seconds longer
}

func (s *versioned) Fetch(ctx context.Context, in *integration.Integration, ref secret.Ref) (*secret.Secret, error) {
	if ref.Name == s.slow {
		time.Sleep(5 * time.Second)
	}
	got, err := s.fakeStore.Fetch(ctx, in, ref)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return got.WithVersion(func([]byte) string { return s.version }), nil
}

// locked is integrations that a test changes while the Hub runs.
type locked struct{ b *watchBench }

func (l locked) Get(id string) (*integration.Integration, error) {
	l.b.changed.Lock()
	defer l.b.changed.Unlock()
	return l.b.integrations.Get(id)
}

func (l locked) List() []*integration.Integration { return nil }

func watched(t *testing.T, test func(t *testing.T, b *watchBench)) {
	synctest.Test(t, func(t *testing.T) {
		b := &watchBench{hub: watch.New(watch.Config{})}
		b.bench = newBench(t, func(c *resolve.Config) {
			values, err := cache.New(cache.Config{MaxBytes: 1 << 20, Loaded: b.hub.Loaded})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(values.Close)
			b.stores = &versioned{fakeStore: c.Stores.(*fakeStore), version: "v1"}
			c.Cache, c.Stores, c.Integrations, c.Hub = values, b.stores, locked{b}, b.hub
			c.Replicas = &b.others
			c.Versions = func(in *integration.Integration, _ secret.Ref) (secret.Versions, time.Duration) {
				switch in.Kind {
				case secret.KindLocalFile:
					return secret.NoVersions, 0
				case secret.KindHashiCorpVault:
					return secret.GeneratedVersions, 0
				default:
					return secret.StoreVersions, 0
				}
			}
			c.MayWatch = func(who authz.Principal, _ *integration.Integration) bool { return who == rotator }
		})
		b.hub.SetReader(b.Resolver)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = b.hub.Run(ctx) })
		test(t, b)
		cancel()
		running.Wait()
	})
}

func (b *watchBench) open(t *testing.T, who authz.Principal, sets ...resolve.WatchSet) *resolve.Watching {
	t.Helper()
	w, err := b.Watch(t.Context(), resolve.Caller{Principal: who}, resolve.WatchRequest{ID: "request-1", Sets: sets})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func set(id string, configs map[string]string) resolve.WatchSet {
	return resolve.WatchSet{IntegrationID: id, Configs: configs}
}

// told returns the notices up to complete, or those within 10 s.
func told(t *testing.T, w *resolve.Watching) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var all []string
	for {
		notices, complete, err := w.Next(ctx)
		for _, n := range notices {
			text := fmt.Sprintf("%d/%s %s %s", n.Set, n.Config, n.State, n.Version)
			if n.Err != nil {
				text += string(n.Err.Reason)
			}
			all = append(all, text)
		}
		if complete || err != nil {
			slices.Sort(all)
			return strings.Join(all, ", ")
		}
	}
}

func (b *watchBench) recorded(t *testing.T) string {
	t.Helper()
	var all []string
	for _, e := range b.events(t) {
		if e.Method != resolve.MethodWatch {
			t.Errorf("a record of %s", e.Method)
		}
		text := fmt.Sprintf("%s/%s %s %s", e.IntegrationID, e.Config, e.Outcome, e.Reason)
		if e.Watched != nil {
			text += fmt.Sprint(e.Watched.Configs, e.Watched.Secrets)
		}
		if e.Version != "" {
			t.Errorf("a record has the version %q", e.Version)
		}
		all = append(all, strings.TrimSpace(text))
	}
	return strings.Join(all, ", ")
}

// TestWatchDecisions: who may watch what, and what is recorded. What does not exist looks
// like what is not allowed.
func TestWatchDecisions(t *testing.T) {
	watched(t, func(t *testing.T, b *watchBench) {
		for _, tt := range []struct {
			who           authz.Principal
			id, ref       string
			want, records string
		}{
			{worker, "cspi", vault + "::db-secret::password", "CURRENT v1", "cspi/ watched 1 [" + vault + "::db-secret]"},
			{worker, "cspi", vault + "::db-missing", "UNREADABLE SECRET_NOT_FOUND", "cspi/ watched 1 [" + vault + "::db-missing]"},
			{worker, "cspi", vault + "::forbidden", "DENIED ACCESS_DENIED", "cspi/p denied ACCESS_DENIED"},
			{worker, "unknown", vault + "::db-secret", "DENIED ACCESS_DENIED", "unknown/p denied ACCESS_DENIED"},
			{worker, "cspi", other + "::db-secret", "DENIED STORE_NOT_ALLOWED", "cspi/p denied STORE_NOT_ALLOWED"},
			{nobody, "cspi", other + "::db-secret", "DENIED ACCESS_DENIED", "cspi/p denied ACCESS_DENIED"},
			{nobody, "cspi", vault + "::db-missing", "DENIED ACCESS_DENIED", "cspi/p denied ACCESS_DENIED"},
			{rotator, "cspi", vault + "::plain", "CURRENT v1", "cspi/ watched 1 [" + vault + "::plain]"},
			{rotator, "cspi", other + "::plain", "DENIED STORE_NOT_ALLOWED", "cspi/p denied STORE_NOT_ALLOWED"},
			{worker, "cspi", "pasted-password", "UNREADABLE INVALID_REFERENCE", "cspi/p rejected INVALID_REFERENCE"},
		} {
			w := b.open(t, tt.who, set(tt.id, map[string]string{"p": tt.ref}))
			if got := told(t, w); got != "0/p "+tt.want {
				t.Errorf("%s, %s: %q, want %q", tt.who, tt.ref, got, tt.want)
			}
			w.Close()
			if got := b.recorded(t); got != tt.records {
				t.Errorf("%s, %s: recorded %q, want %q", tt.who, tt.ref, got, tt.records)
			}
		}
		// The role does not allow a caller to read.
		if _, err := b.call(rotator, resolve.Request{Configs: map[string]string{"p": vault + "::plain"}}); err == nil {
			t.Error("the rotator got a value")
		}
		if reports, err := b.Check(t.Context(), resolve.Caller{Principal: rotator}, resolve.Request{IntegrationID: "cspi", Configs: map[string]string{"p": vault + "::plain"}}); err != nil || reports[0].Err == nil {
			t.Errorf("the rotator got a report: %v %v", reports, err)
		}
		b.admit = func(authz.Principal, *integration.Integration) string { return "elsewhere" }
		for _, who := range []authz.Principal{worker, rotator} {
			w := b.open(t, who, set("cspi", map[string]string{"p": vault + "::plain"}))
			if got := told(t, w); got != "0/p DENIED PLACEMENT_DENIED" {
				t.Errorf("%s in another place: %q", who, got)
			}
			w.Close()
		}
	})
}

// TestWatchConnectorConfiguration: a set may be a connector's whole configuration, and there
// may be several of several integrations.
func TestWatchConnectorConfiguration(t *testing.T) {
	watched(t, func(t *testing.T, b *watchBench) {
		connector := map[string]string{
			"connector.class": "Sink", "a": vault + "::db-secret::password", "b": vault + "::plain", "c": vault + "::forbidden",
			"secret.manager.enabled": "true", "secret.manager": "AZURE_KEY_VAULT", "secret.manager.managed.configs": "a,b,d",
		}
		w := b.open(t, worker, set("cspi", connector), resolve.WatchSet{IntegrationID: "cspi", Configs: map[string]string{"x": vault + "::plain"}, Known: map[string]string{"x": "v0"}}, set("none", map[string]string{"y": vault + "::plain"}))
		defer w.Close()
		if got := told(t, w); got != "0/a CURRENT v1, 0/b CURRENT v1, 0/d UNREADABLE CONFIG_MISMATCH, 1/x CHANGED v1, 2/y DENIED ACCESS_DENIED" {
			t.Errorf("got %q", got)
		}
		if n := b.store.reads.Load(); n != 2 {
			t.Errorf("%d reads of 2 secrets", n)
		}
		off := maps.Clone(connector)
		off["secret.manager.enabled"] = "false"
		w2 := b.open(t, worker, set("cspi", off))
		defer w2.Close()
		if got := told(t, w2); got != "" {
			t.Errorf("got %q", got)
		}
	})
}

// TestWatchNotices: a value that Resolve reads is a notice, a change of grants as well, and
// each change of a decision is recorded once.
func TestWatchNotices(t *testing.T) {
	watched(t, func(t *testing.T, b *watchBench) {
		w := b.open(t, worker, set("cspi", map[string]string{"p": vault + "::plain"}))
		defer w.Close()
		if got := told(t, w); got != "0/p CURRENT v1" {
			t.Errorf("got %q", got)
		}
		b.stores.mu.Lock()
		b.stores.version = "v2"
		b.stores.mu.Unlock()
		_ = b.recorded(t)
		time.Sleep(2 * time.Second)
		if _, err := b.call(worker, resolve.Request{MaxAge: ptr(time.Duration(0)), Configs: map[string]string{"p": vault + "::plain"}}); err != nil {
			t.Fatal(err)
		}
		_ = b.events(t)
		if got := told(t, w); got != "0/p CHANGED v2" {
			t.Errorf("got %q", got)
		}
		change := func(in *integration.Integration) {
			b.changed.Lock()
			b.integrations["cspi"] = in
			b.changed.Unlock()
			b.hub.IntegrationsChanged(nil, []*integration.Integration{in})
		}
		without := *b.integration
		without.Policy, without.Revision = nil, "r2"
		change(&without)
		if got := told(t, w); got != "0/p DENIED ACCESS_DENIED" {
			t.Errorf("got %q", got)
		}
		change(&without)
		if got := told(t, w); got != "" {
			t.Errorf("got %q", got)
		}
		if got := b.recorded(t); got != "cspi/p denied ACCESS_DENIED" {
			t.Errorf("recorded %q", got)
		}
		change(b.integration)
		if got := told(t, w); got != "0/p CHANGED v2" {
			t.Errorf("got %q", got)
		}
		if got := b.recorded(t); got != "cspi/p watched" {
			t.Errorf("recorded %q", got)
		}
	})
}

// TestWatchUnrecorded: without a record, nothing is told.
func TestWatchUnrecorded(t *testing.T) {
	watched(t, func(t *testing.T, b *watchBench) {
		w := b.open(t, worker, set("cspi", map[string]string{"p": vault + "::plain"}))
		defer w.Close()
		_ = told(t, w)
		b.broken.err = registry.ErrUnavailable // any
		if _, err := b.Watch(t.Context(), resolve.Caller{Principal: worker}, resolve.WatchRequest{Sets: []resolve.WatchSet{set("cspi", map[string]string{"p": vault + "::plain"})}}); secret.AsError(err).Reason != secret.ReasonAuditUnavailable {
			t.Errorf("got %v", err)
		}
		without := *b.integration
		without.Policy = nil
		b.changed.Lock()
		b.integrations["cspi"] = &without
		b.changed.Unlock()
		b.hub.DecisionsChanged()
		if _, _, err := w.Next(t.Context()); secret.AsError(err).Reason != secret.ReasonAuditUnavailable {
			t.Errorf("got %v", err)
		}
		if s := b.hub.Stats(); s.Items != 1 {
			t.Errorf("%d items are left of a call that failed", s.Items-1)
		}
	})
}

// TestWatchStoresWithoutVersions: secrets whose changes the broker cannot see are not read,
// and credentials that a read creates are not read for a caller that may only watch.
func TestWatchStoresWithoutVersions(t *testing.T) {
	watched(t, func(t *testing.T, b *watchBench) {
		for kind, tt := range map[secret.Kind]struct {
			store string
			who   authz.Principal
		}{secret.KindLocalFile: {"file:///secrets", worker}, secret.KindHashiCorpVault: {"https://vault.example.org", rotator}} {
			store := tt.store
			policy, err := authz.NewPolicy(kind, []string{store}, []authz.Grant{{ID: "g", Principals: []string{string(worker)}}})
			if err != nil {
				t.Fatal(err)
			}
			b.changed.Lock()
			b.integrations["x"] = &integration.Integration{ID: "x", Kind: kind, Policy: policy}
			b.changed.Unlock()
			w := b.open(t, tt.who, set("x", map[string]string{"p": store + "::database/creds"}))
			if got := told(t, w); got != "0/p UNREADABLE SECRET_NOT_WATCHABLE" {
				t.Errorf("%s: %q", kind, got)
			}
			w.Close()
		}
		if n := b.store.reads.Load(); n != 0 {
			t.Errorf("%d reads", n)
		}
	})
}

// TestWatchRejects: a malformed request is refused as a whole and recorded.
func TestWatchRejects(t *testing.T) {
	watched(t, func(t *testing.T, b *watchBench) {
		many := make(map[string]string)
		for i := range 600 {
			many[fmt.Sprint("p", i)] = vault + "::plain"
		}
		one := map[string]string{"p": vault + "::plain"}
		for name, sets := range map[string][]resolve.WatchSet{
			"no sets":                    nil,
			"no configs":                 {set("cspi", nil)},
			"an invalid id":              {set("A B", one)},
			"too many references":        {set("cspi", many), set("cspi", many)},
			"a version of no config":     {{IntegrationID: "cspi", Configs: one, Known: map[string]string{"q": "v"}}},
			"an empty version":           {{IntegrationID: "cspi", Configs: one, Known: map[string]string{"p": ""}}},
			"a version that is too long": {{IntegrationID: "cspi", Configs: one, Known: map[string]string{"p": strings.Repeat("v", 300)}}},
			"a connector that escapes":   {{IntegrationID: "cspi", Configs: one, Connector: "a\nb"}},
			"too many sets":              slices.Repeat([]resolve.WatchSet{set("cspi", one)}, 1001),
		} {
			_, err := b.Watch(t.Context(), resolve.Caller{Principal: worker}, resolve.WatchRequest{ID: "r", Sets: sets})
			if secret.AsError(err).Reason != secret.ReasonInvalidRequest {
				t.Errorf("%s: %v", name, err)
			}
			if got := b.recorded(t); !strings.HasSuffix(got, "/ rejected INVALID_REQUEST") || strings.Contains(got, ",") {
				t.Errorf("%s: recorded %q", name, got)
			}
		}
		if s := b.hub.Stats(); s.Items+s.Principals != 0 {
			t.Errorf("left: %+v", s)
		}
	})
}
