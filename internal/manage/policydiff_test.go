package manage

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/azurekv"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func rule(principal, store, name, key string) authz.Rule {
	return authz.Rule{Principal: principal, Store: store, Secret: name, Key: key}
}

func TestComparePolicies(t *testing.T) {
	one := func(vaults []string, grants ...authz.Grant) []*integration.Integration {
		return []*integration.Integration{sampleIntegration(t, "x", vaults, grants...)}
	}
	vaults := []string{prod}
	db := func(principals ...string) authz.Grant {
		return authz.Grant{Principals: principals, Secrets: []string{"db"}}
	}
	changed := func(gained, lost []authz.Rule, notes ...Note) Changes {
		return Changes{{IntegrationID: "x", Kind: Changed, Gained: gained, Lost: lost, Notes: notes}}
	}
	for _, tt := range []struct {
		name     string
		old, now []*integration.Integration
		want     Changes
	}{
		{"nothing", nil, nil, nil},
		{"the same", sample(t), sample(t), nil},
		{"another order", sample(t), []*integration.Integration{sample(t)[1], sample(t)[0]}, nil},
		{
			"other grants that say the same", one(vaults, db("dns:a.td", "dns:b.td"), to("dns:c.td")),
			one(vaults, to("dns:c.td"), db("dns:c.td"), db("dns:b.td"), db("dns:a.td")), nil,
		},
		{"one more principal", one(vaults, db("dns:a.td")), one(vaults, db("dns:a.td", "dns:b.td")), changed([]authz.Rule{rule("dns:b.td", prod, "db", "")}, nil)},
		{"one fewer", one(vaults, db("dns:a.td", "dns:b.td")), one(vaults, db("dns:b.td")), changed(nil, []authz.Rule{rule("dns:a.td", prod, "db", "")})},
		{"named by a pattern already", one(vaults, db("dns:*.td")), one(vaults, db("dns:*.td", "dns:a.td")), nil},
		{
			"wider", one(vaults, db("spiffe://td/a/*")), one(vaults, db("spiffe://td/**")),
			changed([]authz.Rule{rule("spiffe://td/**", prod, "db", "")}, nil),
		},
		{
			"from the whole secret to keys", one(vaults, db("dns:a.td")),
			one(vaults, authz.Grant{Principals: []string{"dns:a.td"}, Secrets: []string{"db"}, Keys: []string{"*"}}),
			changed(nil, []authz.Rule{rule("dns:a.td", prod, "db", "")}),
		},
		{
			"moved to another secret", one(vaults, db("dns:b.td", "dns:a.td")), one(vaults, authz.Grant{Principals: []string{"dns:a.td", "dns:b.td"}, Secrets: []string{"x*"}}),
			changed(
				[]authz.Rule{rule("dns:a.td", prod, "x*", ""), rule("dns:b.td", prod, "x*", "")},
				[]authz.Rule{rule("dns:a.td", prod, "db", ""), rule("dns:b.td", prod, "db", "")}),
		},
		{
			"one more vault", one(vaults, db("dns:a.td")), one([]string{prod, stage}, db("dns:a.td")),
			changed([]authz.Rule{rule("dns:a.td", stage, "db", "")}, nil, Note{"azure.vaults", "", stage}),
		},
		{
			"added and removed", []*integration.Integration{sampleIntegration(t, "b", vaults, db("dns:a.td")), sampleIntegration(t, "no-grants", vaults)},
			[]*integration.Integration{sampleIntegration(t, "a", vaults, db("dns:a.td"))},
			Changes{
				{IntegrationID: "a", Kind: Added, Gained: []authz.Rule{rule("dns:a.td", prod, "db", "")}},
				{IntegrationID: "b", Kind: Removed, Lost: []authz.Rule{rule("dns:a.td", prod, "db", "")}},
				{IntegrationID: "no-grants", Kind: Removed},
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, ComparePolicies(tt.old, tt.now)); diff != "" {
				t.Error(diff)
			}
			slices.Reverse(tt.old)
			slices.Reverse(tt.now)
			if diff := cmp.Diff(tt.want, ComparePolicies(tt.old, tt.now)); diff != "" {
				t.Errorf("in another order: %s", diff)
			}
		})
	}
}

func azure(in *integration.Integration) *azurekv.Settings { return in.Settings.(*azurekv.Settings) }

func TestComparePoliciesNotes(t *testing.T) {
	vaults := []string{prod}
	same := func() *integration.Integration {
		in := sampleIntegration(t, "x", vaults, to("dns:a.td"))
		in.CacheTTL, in.CacheMaxStale = time.Minute, time.Hour
		*azure(in) = azurekv.Settings{
			TenantID: "t1", ClientID: "c1", Credential: azurekv.Credential{Type: azurekv.ClientSecret, ClientSecretFile: "/old/secret"},
			Vaults: vaults, CAFile: "/old/ca", AuthorityHost: "https://a/", Dial: map[string]string{"h1": "1:1", "h2": "2:2"},
		}
		return in
	}
	for _, tt := range []struct {
		name   string
		change func(*integration.Integration)
		want   []Note
	}{
		{"nothing", func(*integration.Integration) {}, nil},
		{"paths, display name, revision", func(in *integration.Integration) {
			azure(in).Credential.ClientSecretFile, azure(in).CAFile = "/new/secret", "/new/ca"
			in.DisplayName, in.Revision = "Y", "r2"
		}, nil},
		{"tenant and client", func(in *integration.Integration) { azure(in).TenantID, azure(in).ClientID = "t2", "" },
			[]Note{{"azure.tenant_id", "t1", "t2"}, {"azure.client_id", "c1", ""}}},
		{"credential", func(in *integration.Integration) { azure(in).Credential.Type = azurekv.ManagedIdentity },
			[]Note{{"azure.credential.type", "client_secret", "managed_identity"}}},
		{"vaults", func(in *integration.Integration) { azure(in).Vaults = []string{stage, other} },
			[]Note{{"azure.vaults", "", other}, {"azure.vaults", prod, ""}, {"azure.vaults", "", stage}}},
		{"trust", func(in *integration.Integration) {
			azure(in).CAFile, azure(in).AuthorityHost, azure(in).DisableInstanceDiscovery = "", "https://b/", true
		}, []Note{
			{"azure.authority_host", "https://a/", "https://b/"}, {"azure.disable_instance_discovery", "", "true"}, {"azure.ca_file", "a file", ""},
		}},
		{"dial", func(in *integration.Integration) { azure(in).Dial = map[string]string{"h2": "2:3", "h3": "3:3"} },
			[]Note{{"azure.dial[h1]", "1:1", ""}, {"azure.dial[h2]", "2:2", "2:3"}, {"azure.dial[h3]", "", "3:3"}}},
		{"cache", func(in *integration.Integration) { in.CacheTTL, in.CacheMaxStale = 0, 2*time.Hour },
			[]Note{{"cache.ttl", "1m0s", ""}, {"cache.max_stale", "1h0m0s", "2h0m0s"}}},
		{"kind", func(in *integration.Integration) { in.Kind, in.Settings = "OTHER", nil }, []Note{
			{"kind", "AZURE_KEY_VAULT", "OTHER"},
			{"azure.tenant_id", "t1", ""}, {"azure.client_id", "c1", ""}, {"azure.credential.type", "client_secret", ""}, {"azure.vaults", prod, ""},
			{"azure.authority_host", "https://a/", ""}, {"azure.ca_file", "a file", ""}, {"azure.dial[h1]", "1:1", ""}, {"azure.dial[h2]", "2:2", ""},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now := same()
			tt.change(now)
			var want Changes
			if tt.want != nil {
				want = Changes{{IntegrationID: "x", Kind: Changed, Notes: tt.want}}
			}
			if diff := cmp.Diff(want, ComparePolicies([]*integration.Integration{same()}, []*integration.Integration{now})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNoteString(t *testing.T) {
	for _, tt := range []struct {
		n    Note
		want string
	}{
		{Note{"azure.vaults", "", stage}, "azure.vaults: added " + stage},
		{Note{"azure.vaults", stage, ""}, "azure.vaults: removed " + stage},
		{Note{"azure.client_id", "c1", "c2"}, "azure.client_id: changed from c1 to c2"},
	} {
		if got := tt.n.String(); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

// Every request that only the new grants allow is covered by a gained permission, and every
// request that only the old ones allow by a lost one.
func TestComparePoliciesMissesNothing(t *testing.T) {
	pick := func(r *rand.Rand, pool ...string) string { return pool[r.IntN(len(pool))] }
	some := func(r *rand.Rand, pool ...string) []string {
		var list []string
		for range r.IntN(3) {
			list = append(list, pick(r, pool...))
		}
		return list
	}
	random := func(r *rand.Rand) *integration.Integration {
		vaults := [][]string{{prod}, {stage}, {prod, stage}}[r.IntN(3)]
		grants := make([]authz.Grant, r.IntN(4))
		for i := range grants {
			grants[i] = authz.Grant{
				Principals: []string{pick(r, "spiffe://td/a", "spiffe://td/a*", "spiffe://td/*", "spiffe://td/a/*", "spiffe://td/**", "dns:a.td", "dns:*.td")},
				Stores:     some(r, vaults...), Secrets: some(r, "a", "ab", "a*", "*"), Keys: some(r, "k", "k*", "*"),
			}
		}
		return sampleIntegration(t, "x", vaults, grants...)
	}
	allows := func(in *integration.Integration, who authz.Principal, ref secret.Ref) bool {
		return in.Policy.Decide(who, ref).Effect == authz.Allowed
	}
	found := 0
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 0))
		old, now := random(r), random(r)
		var c Change
		if changes := ComparePolicies([]*integration.Integration{old}, []*integration.Integration{now}); len(changes) == 1 {
			c = changes[0]
		}
		for range 50 {
			who := authz.Principal(pick(r, "spiffe://td/a", "spiffe://td/ab", "spiffe://td/a/b", "spiffe://td/a/b/c", "dns:a.td", "dns:b.td"))
			asked := authz.Rule{Principal: string(who), Store: pick(r, prod, stage), Secret: pick(r, "a", "ab", "abc", "b"), Key: pick(r, "", "k", "kk", "l")}
			text := asked.Store + "::" + asked.Secret
			if asked.Key != "" {
				text += "::" + asked.Key
			}
			ref, err := secret.ParseRef(text)
			if err != nil {
				t.Fatal(err)
			}
			before, after := allows(old, who, ref), allows(now, who, ref)
			if before == after {
				continue
			}
			found++
			gave := c.Lost
			if after {
				gave = c.Gained
			}
			// A request is a rule of its own: a key, or the whole secret, which only
			// a rule for the whole secret covers.
			if !slices.ContainsFunc(gave, func(r authz.Rule) bool { return r.Covers(asked) }) {
				t.Fatalf("%s, %s: allowed before %v, after %v; reported %+v", who, ref, before, after, c)
			}
		}
	}
	if found < 1000 {
		t.Errorf("%d differences only: the test proves little", found)
	}
}

// The comparison of two large versions with little in common ends in reasonable time, which
// it would not if every rule were compared with every other.
func TestComparePoliciesOfManyGrants(t *testing.T) {
	const n = 10_000
	many := func(format string) []*integration.Integration {
		grants := make([]authz.Grant, n)
		for i := range grants {
			grants[i] = authz.Grant{Principals: []string{fmt.Sprintf(format, i)}, Secrets: []string{"a", "b-*"}}
		}
		return []*integration.Integration{sampleIntegration(t, "x", []string{prod, stage}, grants...)}
	}
	changes := ComparePolicies(many("spiffe://td/team-%d/*"), many("spiffe://td/team-%d/**"))
	if len(changes) != 1 || len(changes[0].Gained) != 4*n || len(changes[0].Lost) != 0 {
		t.Fatalf("%d changes", len(changes))
	}
}
