package resolve_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func (b *watchBench) refresh(t *testing.T, who authz.Principal, id string, configs map[string]string) (string, []resolve.RefreshReport) {
	t.Helper()
	res, err := b.Refresh(t.Context(), resolve.Caller{Principal: who}, resolve.Request{ID: "request-1", IntegrationID: id, Configs: configs})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, c := range res.Configs {
		text := c.Config + " " + c.Version
		if c.Err != nil {
			text += string(c.Err.Reason)
		}
		all = append(all, text)
	}
	return strings.Join(all, ", "), res.Configs
}

// TestRefreshDecisions: who may refresh what, and what is recorded, is as with Watch.
func TestRefreshDecisions(t *testing.T) {
	watched(t, func(t *testing.T, b *watchBench) {
		for _, tt := range []struct {
			who                    authz.Principal
			id, ref, want, outcome string
		}{
			{worker, "cspi", vault + "::plain", "v1", "checked"},
			{worker, "cspi", vault + "::db-secret::no-such-key", "v1", "checked"},
			{worker, "cspi", vault + "::db-missing", "SECRET_NOT_FOUND", "failed"},
			{worker, "cspi", vault + "::forbidden", "ACCESS_DENIED", "denied"},
			{worker, "unknown", vault + "::plain", "ACCESS_DENIED", "denied"},
			{worker, "cspi", other + "::plain", "STORE_NOT_ALLOWED", "denied"},
			{nobody, "cspi", vault + "::db-missing", "ACCESS_DENIED", "denied"},
			{rotator, "cspi", vault + "::forbidden", "SECRET_NOT_FOUND", "failed"},
			{rotator, "cspi", other + "::plain", "STORE_NOT_ALLOWED", "denied"},
			{worker, "cspi", "pasted-password", "INVALID_REFERENCE", "rejected"},
		} {
			time.Sleep(time.Minute) // no pause for an earlier read
			before := b.store.reads.Load()
			if got, _ := b.refresh(t, tt.who, tt.id, map[string]string{"p": tt.ref}); got != "p "+tt.want {
				t.Errorf("%s, %s: %q, want %q", tt.who, tt.ref, got, tt.want)
			}
			events := b.events(t)
			if len(events) != 1 || events[0].Method != resolve.MethodRefresh || string(events[0].Outcome) != tt.outcome {
				t.Errorf("%s, %s: recorded %+v", tt.who, tt.ref, events)
			}
			if read := b.store.reads.Load() > before; read != (tt.outcome == "checked" || tt.outcome == "failed") {
				t.Errorf("%s, %s: read=%v", tt.who, tt.ref, read)
			}
		}
	})
}

// TestRefreshReadsOnce: each distinct secret is read once, also if the cache has it, and at
// most once per second, for all callers together.
func TestRefreshReadsOnce(t *testing.T) {
	watched(t, func(t *testing.T, b *watchBench) {
		if _, err := b.call(worker, resolve.Request{Configs: map[string]string{"p": vault + "::plain"}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		b.stores.mu.Lock()
		b.stores.version = "v2"
		b.stores.mu.Unlock()
		before, start := b.store.reads.Load(), time.Now()
		got, reports := b.refresh(t, worker, "cspi", map[string]string{"a": vault + "::db-secret::user", "b": vault + "::db-secret::password", "c": vault + "::plain"})
		if got != "a v2, b v2, c v2" {
			t.Errorf("got %q", got)
		}
		if n := b.store.reads.Load() - before; n != 2 {
			t.Errorf("%d reads of 2 secrets", n)
		}
		for _, r := range reports {
			if r.FetchedAt.Before(start) {
				t.Errorf("%s was read at %v, before the call at %v", r.Config, r.FetchedAt, start)
			}
		}
		res, err := b.call(worker, resolve.Request{NotReadBefore: reports[2].FetchedAt, Configs: map[string]string{"p": vault + "::plain"}})
		if err != nil || res.Configs[0].Version != "v2" || b.store.reads.Load()-before != 2 {
			t.Errorf("not_read_before: %+v, %v", res, err)
		}

		time.Sleep(time.Millisecond) // the calls begin after the last read
		start, before = time.Now(), b.store.reads.Load()
		var calls sync.WaitGroup
		for i := range 20 {
			calls.Go(func() {
				if _, err := b.Refresh(t.Context(), resolve.Caller{Principal: authz.Principal(fmt.Sprint("spiffe://example.org/connect/", i))},
					resolve.Request{ID: "r", IntegrationID: "cspi", Configs: map[string]string{"p": vault + "::plain"}}); err != nil {
					t.Error(err)
				}
			})
		}
		calls.Wait()
		if n, took := b.store.reads.Load()-before, time.Since(start); n != 1 || took > 2*time.Second {
			t.Errorf("20 calls made %d reads in %v", n, took)
		}
	})
}

// TestRefreshTellsWhenReadsEnded: the other replicas get the end of each read, not that of the
// slowest one of the call.
func TestRefreshTellsWhenReadsEnded(t *testing.T) {
	watched(t, func(t *testing.T, b *watchBench) {
		b.stores.slow = "db-secret"
		start := time.Now()
		_, _ = b.refresh(t, worker, "cspi", map[string]string{"a": vault + "::db-secret::user", "b": vault + "::plain"})
		if n := len(b.others.reads); n != 2 {
			t.Fatalf("%d reads", n)
		}
		for _, r := range b.others.reads {
			want := time.Duration(0)
			if r.Name == b.stores.slow {
				want = 5 * time.Second
			}
			if d := r.Ended.Sub(start); d < want || d > want+time.Second {
				t.Errorf("the read of %s ended after %v", r.Name, d)
			}
		}
	})
}

// TestRefreshNotices: watchers are told of what a refresh finds.
func TestRefreshNotices(t *testing.T) {
	watched(t, func(t *testing.T, b *watchBench) {
		w := b.open(t, worker, set("cspi", map[string]string{"p": vault + "::plain"}))
		defer w.Close()
		_ = told(t, w)
		time.Sleep(2 * time.Second)
		b.stores.mu.Lock()
		b.stores.version = "v2"
		b.stores.mu.Unlock()
		_, _ = b.refresh(t, rotator, "cspi", map[string]string{"p": vault + "::plain"})
		if got := told(t, w); got != "0/p CHANGED v2" {
			t.Errorf("got %q", got)
		}
	})
}

// TestRefreshGenerated: a read that generates a credential is refused, and one of a store
// without versions is made.
func TestRefreshGenerated(t *testing.T) {
	watched(t, func(t *testing.T, b *watchBench) {
		for kind, tt := range map[secret.Kind]struct{ store, want string }{
			secret.KindLocalFile:      {"file:///secrets", "p v1"},
			secret.KindHashiCorpVault: {"https://vault.example.org", "p SECRET_NOT_WATCHABLE"},
		} {
			policy, err := authz.NewPolicy(kind, []string{tt.store}, []authz.Grant{{ID: "g", Principals: []string{string(worker)}}})
			if err != nil {
				t.Fatal(err)
			}
			b.changed.Lock()
			b.integrations["x"] = &integration.Integration{ID: "x", Kind: kind, Policy: policy}
			b.changed.Unlock()
			b.store.mu.Lock()
			b.store.secrets["database/creds"] = "canary"
			b.store.mu.Unlock()
			if got, _ := b.refresh(t, worker, "x", map[string]string{"p": tt.store + "::database/creds"}); got != tt.want {
				t.Errorf("%s: %q", kind, got)
			}
		}
		if n := b.store.reads.Load(); n != 1 {
			t.Errorf("%d reads", n)
		}
	})
}

// TestRefreshRejects: a malformed request is refused as a whole and recorded, and without a
// record there is no answer.
func TestRefreshRejects(t *testing.T) {
	watched(t, func(t *testing.T, b *watchBench) {
		many, secrets := make(map[string]string), make(map[string]string)
		for i := range 129 {
			many[fmt.Sprint("p", i)] = vault + "::plain"
		}
		for i := range 65 {
			secrets[fmt.Sprint("p", i)] = fmt.Sprint(vault, "::db-", i)
		}
		one := map[string]string{"p": vault + "::plain"}
		for name, req := range map[string]resolve.Request{
			"no configs":              {IntegrationID: "cspi"},
			"an invalid id":           {IntegrationID: "A B", Configs: one},
			"too many references":     {IntegrationID: "cspi", Configs: many},
			"too many secrets":        {IntegrationID: "cspi", Configs: secrets},
			"a connector that escape": {IntegrationID: "cspi", Configs: one, Connector: "a\nb"},
		} {
			if _, err := b.Refresh(t.Context(), resolve.Caller{Principal: worker}, req); secret.AsError(err).Reason != secret.ReasonInvalidRequest {
				t.Errorf("%s: %v", name, err)
			}
			if events := b.events(t); len(events) != 1 || events[0].Outcome != "rejected" || events[0].Method != resolve.MethodRefresh {
				t.Errorf("%s: recorded %+v", name, events)
			}
		}
		b.broken.err = registry.ErrUnavailable // any
		if _, err := b.Refresh(t.Context(), resolve.Caller{Principal: worker}, resolve.Request{IntegrationID: "cspi", Configs: one}); secret.AsError(err).Reason != secret.ReasonAuditUnavailable {
			t.Errorf("got %v", err)
		}
	})
}
