package authz

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// checkExplanation compares an explanation with Decide, part by part with the
// slow implementation, and sees that the parts lead to the decision.
func checkExplanation(t *testing.T, p *Policy, stores []string, grants []Grant, who Principal, ref secret.Ref) {
	t.Helper()
	e := p.Explain(who, ref)
	if got := p.Decide(who, ref); e.Decision != got {
		t.Fatalf("Explain(%s, %s).Decision = %v, Decide says %v", who, ref, e.Decision, got)
	}
	if listed := slices.Contains(stores, ref.Store); e.StoreListed != listed {
		t.Fatalf("Explain(%s, %s).StoreListed = %v", who, ref, e.StoreListed)
	}
	if len(e.Grants) != len(grants) {
		t.Fatalf("Explain(%s, %s) has %d grants of %d", who, ref, len(e.Grants), len(grants))
	}
	effect := Denied
	for i, g := range grants {
		isOneOf := func(patterns []string, matches func(string) bool) bool {
			return patterns == nil || slices.ContainsFunc(patterns, matches)
		}
		var want Match
		if j := slices.IndexFunc(g.Principals, func(pattern string) bool { return isPrincipal(pattern, string(who)) }); j >= 0 {
			want.Principal = g.Principals[j]
		}
		want.Store = isOneOf(g.Stores, func(store string) bool { return store == ref.Store })
		want.Secret = isOneOf(g.Secrets, func(pattern string) bool { return isText(strings.ToLower(pattern), ref.Name) })
		want.Key = isOneOf(g.Keys, func(pattern string) bool { return ref.Key != "" && isText(pattern, ref.Key) })
		if got := e.Grants[i]; got != want {
			t.Fatalf("Explain(%s, %s): grant %d: %+v, want %+v\n%+v", who, ref, i, got, want, g)
		}
		switch {
		case !e.Grants[i].All():
		case e.StoreListed:
			effect = Allowed
		default:
			effect = max(effect, StoreNotAllowed)
		}
	}
	if effect != e.Decision.Effect {
		t.Fatalf("Explain(%s, %s): its parts say %v, its decision %v\ngrants %+v", who, ref, effect, e.Decision.Effect, grants)
	}
	if effect != Denied && !e.Grants[e.Decision.Grant].All() {
		t.Fatalf("Explain(%s, %s): decided by grant %d, which does not match: %+v", who, ref, e.Decision.Grant, e.Grants)
	}
}

// checkReaders sees that who is among the readers exactly if it is allowed, by
// every grant that allows it.
func checkReaders(t *testing.T, p *Policy, stores []string, grants []Grant, who Principal, ref secret.Ref) {
	t.Helper()
	var got, want []int
	for _, a := range p.Readers(ref) {
		if !slices.Contains(grants[a.Grant].Principals, a.Principal) {
			t.Fatalf("Readers(%s): grant %d has no pattern %s", ref, a.Grant, a.Principal)
		}
		if isPrincipal(a.Principal, string(who)) && !slices.Contains(got, a.Grant) {
			got = append(got, a.Grant)
		}
	}
	for i, g := range grants {
		if effectOfGrant(stores, g, string(who), ref) == Allowed {
			want = append(want, i)
		}
	}
	if !slices.Equal(got, want) {
		t.Fatalf("Readers(%s): %s may by grants %v, want %v\ngrants %+v", ref, who, got, want, grants)
	}
}

func TestReaders(t *testing.T) {
	p := mustPolicy(t, []string{prod, stage},
		Grant{Principals: []string{"spiffe://td/a", "dns:*.td"}},
		Grant{Principals: []string{"spiffe://td/b/**"}, Secrets: []string{"DB-*"}},
		Grant{Principals: []string{"spiffe://td/keys"}, Keys: []string{"pass*"}},
		Grant{Principals: []string{"spiffe://td/stage"}, Stores: []string{stage}},
	)
	all := []Access{{0, "spiffe://td/a"}, {0, "dns:*.td"}}
	for _, tt := range []struct {
		ref  string
		want []Access
	}{
		{prod + "::x", all},
		{prod + "::db-1", append(all[:2:2], Access{1, "spiffe://td/b/**"})},
		{prod + "::x::password", append(all[:2:2], Access{2, "spiffe://td/keys"})},
		{prod + "::x::user", all},
		{stage + "::x", append(all[:2:2], Access{3, "spiffe://td/stage"})},
		{other + "::x", nil},
	} {
		if diff := cmp.Diff(tt.want, p.Readers(mustRef(t, tt.ref))); diff != "" {
			t.Errorf("%s: %s", tt.ref, diff)
		}
	}
}

func TestExplain(t *testing.T) {
	p := mustPolicy(t, []string{prod, stage},
		Grant{Principals: []string{"spiffe://td/x", "spiffe://td/a/*", "spiffe://td/a/b"}, Secrets: []string{"db-*"}},
		Grant{Principals: []string{"spiffe://td/**"}, Keys: []string{"password"}},
		Grant{Principals: []string{"spiffe://td/x"}, Stores: []string{stage}},
	)
	for _, tt := range []struct {
		name string
		who  Principal
		ref  string
		want Explanation
	}{
		{"allowed", "spiffe://td/a/b", prod + "::db-1", Explanation{
			Decision: Decision{Allowed, 0}, StoreListed: true,
			Grants: []Match{{"spiffe://td/a/*", true, true, true}, {"spiffe://td/**", true, true, false}, {"", false, true, true}},
		}},
		{"another secret, and all of it", "spiffe://td/a/b", prod + "::x", Explanation{
			StoreListed: true,
			Grants:      []Match{{"spiffe://td/a/*", true, false, true}, {"spiffe://td/**", true, true, false}, {"", false, true, true}},
		}},
		{"a store that is not listed", "spiffe://td/x", other + "::x::password", Explanation{
			Decision: Decision{StoreNotAllowed, 1},
			Grants:   []Match{{"spiffe://td/x", true, false, true}, {"spiffe://td/**", true, true, true}, {"spiffe://td/x", false, true, true}},
		}},
		{"nobody", "", prod + "::db-1", Explanation{
			StoreListed: true,
			Grants:      []Match{{"", true, true, true}, {"", true, true, false}, {"", false, true, true}},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, p.Explain(tt.who, mustRef(t, tt.ref))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNilPolicyExplains(t *testing.T) {
	var p *Policy
	ref := mustRef(t, prod+"::x")
	if e := p.Explain("spiffe://td/a", ref); !cmp.Equal(e, Explanation{}) {
		t.Errorf("Explain = %+v", e)
	}
	if p.Readers(ref) != nil || p.Rules() != nil || p.Grants() != nil {
		t.Error("a nil Policy allows a principal to read something")
	}
}

// The grants that a policy keeps are its own.
func TestGrants(t *testing.T) {
	g := Grant{Principals: []string{"dns:a.td"}, Stores: []string{stage + "/", "https://PROD.vault.azure.net", stage}, Secrets: []string{"DB-*"}, Keys: []string{"Key"}}
	p := mustPolicy(t, []string{prod, stage}, g, Grant{Principals: []string{"dns:b.td"}})
	want := []Grant{
		{Principals: []string{"dns:a.td"}, Stores: []string{prod, stage}, Secrets: []string{"db-*"}, Keys: []string{"Key"}},
		{Principals: []string{"dns:b.td"}, Secrets: []string{"*"}},
	}
	g.Principals[0], g.Keys[0] = "dns:evil.td", "other"
	if diff := cmp.Diff(want, p.Grants()); diff != "" {
		t.Error(diff)
	}
	_ = append(p.Grants(), Grant{})
	if diff := cmp.Diff(want, p.Grants()); diff != "" {
		t.Error(diff)
	}
}

func TestParsePrincipal(t *testing.T) {
	for _, tt := range []struct{ text, want, fault string }{
		{"spiffe://example.org/connect/worker-1", "spiffe://example.org/connect/worker-1", ""},
		{"spiffe://example.org", "spiffe://example.org", ""},
		{"dns:worker-1.example.org", "dns:worker-1.example.org", ""},
		{"dns:Worker-1.Example.ORG", "dns:worker-1.example.org", ""},
		{"", "", "expected a SPIFFE ID"},
		{"worker-1.example.org", "", "expected a SPIFFE ID"},
		{"SPIFFE://example.org", "", "expected a SPIFFE ID"},
		{"spiffe://example.org/", "", "not a SPIFFE ID"},
		{"spiffe://Example.org/a", "", "not a SPIFFE ID"},
		{"spiffe://example.org/a/../b", "", "not a SPIFFE ID"},
		{"spiffe://example.org/connect/*", "", "a pattern can match many"},
		{"dns:*.example.org", "", "a pattern can match many"},
		{"dns:", "", "a host name after"},
		{"dns:wor\u212aer.example.org", "", "a host name after"},
	} {
		got, err := ParsePrincipal(tt.text)
		switch {
		case tt.fault == "" && err != nil, tt.fault != "" && (err == nil || !strings.Contains(err.Error(), tt.fault)):
			t.Errorf("%q: err = %v, want %q", tt.text, err, tt.fault)
		case string(got) != tt.want:
			t.Errorf("%q: %q, want %q", tt.text, got, tt.want)
		}
	}
}
