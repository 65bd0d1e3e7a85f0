package resolve_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/replica"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// otherReplicas records what is shared.
type otherReplicas struct {
	mu    sync.Mutex
	saw   []string
	reads []replica.Read
}

func (o *otherReplicas) Saw(k replica.Key, scheme, version string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.saw = append(o.saw, strings.TrimSpace(fmt.Sprint(k.Integration, " ", k.Store, " ", k.Name, " ", version, " ", scheme)))
}

func (o *otherReplicas) SawNone(k replica.Key, scheme string) { o.Saw(k, scheme, "none") }

func (o *otherReplicas) Confirm(_ context.Context, reads []replica.Read) replica.Coverage {
	o.reads = reads
	return replica.Coverage{State: replica.SomeReplicas, Behind: []replica.Lease{{Name: "b"}}}
}

func (o *otherReplicas) take() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	saw := o.saw
	o.saw = nil
	return saw
}

// TestSharedWithReplicas: each read of a store is shared once with its version, except where
// the version means nothing to other replicas; a Refresh is confirmed for all of them.
func TestSharedWithReplicas(t *testing.T) {
	others := &otherReplicas{}
	b := newBench(t, func(c *resolve.Config) {
		c.Replicas, c.VersionScheme = others, "key 1"
		c.Versions = func(in *integration.Integration, _ secret.Ref) (secret.Versions, time.Duration) {
			switch in.ID {
			case "file", "kv1":
				return secret.NoVersions, 0
			case "generated":
				return secret.GeneratedVersions, 0
			default:
				return secret.StoreVersions, 0
			}
		}
	})
	for id, kind := range map[string]secret.Kind{"file": secret.KindLocalFile, "kv1": secret.KindHashiCorpVault, "generated": secret.KindHashiCorpVault} {
		store := map[secret.Kind]string{secret.KindLocalFile: "file:///secrets", secret.KindHashiCorpVault: "https://vault.example.org"}[kind]
		policy, err := authz.NewPolicy(kind, []string{store}, []authz.Grant{{ID: "g", Principals: []string{string(worker)}}})
		if err != nil {
			t.Fatal(err)
		}
		b.integrations[id] = &integration.Integration{ID: id, Kind: kind, Policy: policy}
	}
	b.store.secrets["kv/a"] = "canary"
	for _, tt := range []struct{ id, ref, want string }{
		{"cspi", vault + "::plain", "cspi " + vault + " plain " + version},
		{"kv1", "https://vault.example.org::kv/a", "kv1 https://vault.example.org kv/a " + version + " key 1"},
		{"file", "file:///secrets::kv/a", ""},
		{"generated", "https://vault.example.org::kv/a", ""},
		{"cspi", vault + "::db-missing", "cspi " + vault + " db-missing none"},
		{"kv1", "https://vault.example.org::kv/missing", "kv1 https://vault.example.org kv/missing none key 1"},
		{"file", "file:///secrets::missing", ""},
	} {
		for range 2 { // the second is answered from the cache
			_, err := b.call(worker, resolve.Request{IntegrationID: tt.id, Configs: map[string]string{"p": tt.ref}})
			if missing := strings.Contains(tt.ref, "missing"); (err != nil) != missing {
				t.Fatal(err)
			}
		}
		var want []string
		if tt.want != "" {
			want = []string{tt.want}
		}
		if got := others.take(); !slices.Equal(got, want) {
			t.Errorf("%s: shared %q, want %q", tt.ref, got, want)
		}
	}

	res, err := b.Refresh(t.Context(), resolve.Caller{Principal: worker}, resolve.Request{IntegrationID: "file", Configs: map[string]string{"p": "file:///secrets::kv/a"}})
	if err != nil || res.Coverage.State != replica.SomeReplicas || len(res.Coverage.Behind) != 1 {
		t.Fatalf("%+v, %v", res, err)
	}
	if r := others.reads; len(r) != 1 || r[0].Scheme != replica.SchemeNone || r[0].Version != "" || r[0].Name != "kv/a" || !r[0].Began.Equal(res.Configs[0].FetchedAt) {
		t.Errorf("confirmed %+v", r)
	}
	if _, err := b.Refresh(t.Context(), resolve.Caller{Principal: nobody}, resolve.Request{IntegrationID: "file", Configs: map[string]string{"p": "file:///secrets::kv/a"}}); err != nil || len(others.reads) != 0 {
		t.Errorf("a caller without a grant made replicas drop %+v, %v", others.reads, err)
	}
}
