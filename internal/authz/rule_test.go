package authz

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/secret"
)

func TestCoversPrincipal(t *testing.T) {
	for _, tt := range []struct {
		pattern          string
		covers, leavesTo []string
	}{
		{
			"spiffe://td/a", []string{"spiffe://td/a"},
			[]string{"spiffe://td", "spiffe://td/ab", "spiffe://td/a/b", "spiffe://td/a*", "spiffe://td/a/*", "spiffe://td/a/**", "dns:td"},
		},
		{
			"spiffe://td/a/*", []string{"spiffe://td/a/*", "spiffe://td/a/b", "spiffe://td/a/b*"},
			[]string{"spiffe://td/a", "spiffe://td/*", "spiffe://td/a*", "spiffe://td/a/**", "spiffe://td/a/b/c", "spiffe://td/a/b/*", "spiffe://td/a/b/**", "spiffe://td/ab/c"},
		},
		{
			"spiffe://td/a/w-*", []string{"spiffe://td/a/w-*", "spiffe://td/a/w-", "spiffe://td/a/w-1", "spiffe://td/a/w-1*"},
			[]string{"spiffe://td/a/w", "spiffe://td/a/w*", "spiffe://td/a/*", "spiffe://td/a/**", "spiffe://td/a/w-/**", "spiffe://td/a/w-1/b"},
		},
		{
			"spiffe://td/a/**", []string{"spiffe://td/a/**", "spiffe://td/a/*", "spiffe://td/a/b", "spiffe://td/a/b*", "spiffe://td/a/b/c", "spiffe://td/a/b/*", "spiffe://td/a/b/**"},
			[]string{"spiffe://td/a", "spiffe://td/a*", "spiffe://td/*", "spiffe://td/**", "spiffe://td/ab/c", "spiffe://tdx/a/b"},
		},
		{
			"spiffe://td/**", []string{"spiffe://td/a", "spiffe://td/*", "spiffe://td/a/**"},
			[]string{"spiffe://td", "spiffe://tdx/**", "spiffe://td.evil/a", "dns:td", "dns:*.td"},
		},
		{"dns:a.td", []string{"dns:a.td"}, []string{"dns:*.td", "dns:td", "dns:b.td", "dns:a.a.td", "dns:*.a.td"}},
		{"dns:*.td", []string{"dns:*.td", "dns:a.td"}, []string{"dns:td", "dns:a.a.td", "dns:*.a.td", "dns:a.tdx", "spiffe://a.td", "spiffe://td/**"}},
	} {
		for _, other := range tt.covers {
			if !coversPrincipal(tt.pattern, other) {
				t.Errorf("%s does not cover %s", tt.pattern, other)
			}
		}
		for _, other := range tt.leavesTo {
			if coversPrincipal(tt.pattern, other) {
				t.Errorf("%s covers %s", tt.pattern, other)
			}
		}
	}
}

func TestCoversTextAndKey(t *testing.T) {
	for _, tt := range []struct {
		pattern, other string
		text, key      bool
	}{
		{"a", "a", true, true},
		{"a", "ab", false, false},
		{"a", "a*", false, false},
		{"a", "A", false, false},
		{"a*", "a", true, true},
		{"a*", "ab", true, true},
		{"a*", "a*", true, true},
		{"a*", "ab*", true, true},
		{"ab*", "a*", false, false},
		{"ab*", "a", false, false},
		{"a*", "*", false, false},
		{"*", "a", true, true},
		{"*", "a*", true, true},
		{"*", "*", true, true},
	} {
		if got := coversText(tt.pattern, tt.other); got != tt.text {
			t.Errorf("text %q covers %q: %v", tt.pattern, tt.other, got)
		}
		if got := coversKey(tt.pattern, tt.other); got != tt.key {
			t.Errorf("key %q covers %q: %v", tt.pattern, tt.other, got)
		}
	}
	for _, key := range []string{"", "*", "a", "a*"} { // "" is every key and the whole secret
		if !coversKey("", key) {
			t.Errorf("no narrowing does not cover %q", key)
		}
		if got := coversKey(key, ""); got != (key == "") {
			t.Errorf("key %q covers the whole secret: %v", key, got)
		}
	}
}

func TestCovers(t *testing.T) {
	r := Rule{"spiffe://td/*", prod, "db-*", "pass*"}
	for _, tt := range []struct {
		other Rule
		want  bool
	}{
		{r, true},
		{Rule{"spiffe://td/a", prod, "db-1", "password"}, true},
		{Rule{"spiffe://td/**", prod, "db-1", "password"}, false},
		{Rule{"spiffe://td/a", stage, "db-1", "password"}, false},
		{Rule{"spiffe://td/a", prod, "*", "password"}, false},
		{Rule{"spiffe://td/a", prod, "db-1", "*"}, false},
		{Rule{"spiffe://td/a", prod, "db-1", ""}, false},
	} {
		if got := r.Covers(tt.other); got != tt.want {
			t.Errorf("covers %+v: %v", tt.other, got)
		}
		if got := NewRuleSet([]Rule{{}, r}).Covers(tt.other); got != tt.want {
			t.Errorf("a set covers %+v: %v", tt.other, got)
		}
	}
}

func TestRules(t *testing.T) {
	p := mustPolicy(t, []string{stage, prod},
		Grant{Principals: []string{"dns:a.td", "dns:b.td"}, Secrets: []string{"DB", "x*"}},
		Grant{Principals: []string{"dns:a.td"}, Stores: []string{prod}, Secrets: []string{"db"}}, // said already
		Grant{Principals: []string{"dns:a.td"}, Stores: []string{prod}, Keys: []string{"k", "l*"}},
	)
	want := []Rule{
		{"dns:a.td", prod, "db", ""}, {"dns:a.td", prod, "x*", ""}, {"dns:a.td", stage, "db", ""}, {"dns:a.td", stage, "x*", ""},
		{"dns:b.td", prod, "db", ""}, {"dns:b.td", prod, "x*", ""}, {"dns:b.td", stage, "db", ""}, {"dns:b.td", stage, "x*", ""},
		{"dns:a.td", prod, "*", "k"}, {"dns:a.td", prod, "*", "l*"},
	}
	if diff := cmp.Diff(want, p.Rules()); diff != "" {
		t.Error(diff)
	}
}

// policyOf returns a policy that allows exactly what the rules allow.
func policyOf(t *testing.T, rules ...Rule) *Policy {
	t.Helper()
	grants := make([]Grant, len(rules))
	for i, r := range rules {
		grants[i] = Grant{Principals: []string{r.Principal}, Stores: []string{r.Store}, Secrets: []string{r.Secret}}
		if r.Key != "" {
			grants[i].Keys = []string{r.Key}
		}
	}
	return mustPolicy(t, []string{prod, stage}, grants...)
}

// The rules of a policy together allow exactly what the policy allows.
func TestRulesAreThePolicy(t *testing.T) {
	stores := []string{prod, stage}
	allowed := 0
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 1))
		p := mustPolicy(t, stores, someGrants(r, 5, stores)...)
		again := policyOf(t, p.Rules()...)
		for range 100 {
			who, ref := someQuestion(t, r)
			got, want := again.Decide(who, ref).Effect == Allowed, p.Decide(who, ref).Effect == Allowed
			if got != want {
				t.Fatalf("%s, %s: %v by the rules, %v by the policy\nrules %+v", who, ref, got, want, p.Rules())
			}
			if want {
				allowed++
			}
		}
	}
	if allowed < 1000 {
		t.Errorf("%d allowed only: the test proves little", allowed)
	}
}

// tellsApart reports whether b allows the question and a does not.
func tellsApart(a, b *Policy, who Principal, ref secret.Ref) bool {
	return b.Decide(who, ref).Effect == Allowed && a.Decide(who, ref).Effect != Allowed
}

func someRule(r *rand.Rand) Rule {
	return Rule{
		Principal: principalPatterns[r.IntN(len(principalPatterns))],
		Store:     []string{prod, stage}[r.IntN(4)/3],
		Secret:    strings.ToLower(namePatterns[r.IntN(len(namePatterns))]),
		Key:       append(few(r, 1, keyPatterns), "")[0],
	}
}

// A covered rule allows nothing more than the rule that covers it, and a rule that is
// not covered does. The pools are small enough to ask every question that could
// distinguish them.
func TestCoversAgreesWithDecide(t *testing.T) {
	var whos []Principal
	for _, pattern := range principalPatterns { // one that matches little else for every pattern
		whos = append(whos, Principal(strings.NewReplacer("dns:*", "dns:zz", "**", "zz/zz", "*", "zz").Replace(pattern)))
	}
	refs := make(map[string][]secret.Ref)
	for _, store := range []string{prod, stage} {
		for _, name := range namePatterns {
			for _, key := range append([]string{""}, keyPatterns...) {
				text := store + "::" + strings.ReplaceAll(name, "*", "zz")
				if key != "" {
					text += "::" + strings.ReplaceAll(key, "*", "zz")
				}
				refs[store] = append(refs[store], mustRef(t, text))
			}
		}
	}
	covered := 0
	for seed := range uint64(1500) {
		r := rand.New(rand.NewPCG(seed, 2))
		a, b := someRule(r), someRule(r)
		if seed%2 == 0 { // make it likelier that one covers the other
			a.Principal, a.Store = principalPatterns[r.IntN(4)], b.Store
		}
		if seed%3 == 0 {
			a.Secret, a.Key = "*", ""
		}
		mine, others := policyOf(t, a), policyOf(t, b)
		apart := slices.ContainsFunc(whos, func(who Principal) bool {
			if !isPrincipal(b.Principal, string(who)) {
				return false // nothing that b allows
			}
			return slices.ContainsFunc(refs[b.Store], func(ref secret.Ref) bool { return tellsApart(mine, others, who, ref) })
		})
		if apart == a.Covers(b) {
			t.Fatalf("%+v covers %+v: %v, but a question tells them apart: %v", a, b, a.Covers(b), apart)
		}
		if a.Covers(b) {
			covered++
		}
	}
	if covered < 100 {
		t.Errorf("%d pairs covered only: the test proves little", covered)
	}
}

// A RuleSet agrees with comparing each rule in turn.
func TestRuleSetAgreesWithCovers(t *testing.T) {
	found := 0
	for seed := range uint64(5000) {
		r := rand.New(rand.NewPCG(seed, 3))
		rules := make([]Rule, r.IntN(20))
		for i := range rules {
			rules[i] = someRule(r)
		}
		asked := someRule(r)
		want := slices.ContainsFunc(rules, func(c Rule) bool { return c.Covers(asked) })
		if got := NewRuleSet(rules).Covers(asked); got != want {
			t.Fatalf("%+v covered: %v, want %v\nby %+v", asked, got, want, rules)
		}
		if want && !slices.Contains(rules, asked) {
			found++
		}
	}
	if found < 300 {
		t.Errorf("%d covered only: the test proves little", found)
	}
}

func FuzzCovers(f *testing.F) {
	f.Add("spiffe://td/a/*", "db*", "", "spiffe://td/a/b", "db-1", "*", "spiffe://td/a/b", "db-1", "key")
	f.Add("spiffe://td/**", "*", "*", "spiffe://td/a/**", "a*", "", "spiffe://td/a/b/c", "a", "")
	f.Add("dns:*.td", "a", "k*", "dns:a.td", "a", "k", "dns:a.td", "A", "k1")
	f.Add("spiffe://td/a*", "a*", "k", "spiffe://td/a/**", "a", "k*", "spiffe://td/a/b", "a", "k")
	f.Fuzz(func(t *testing.T, principal, name, key, principal2, name2, key2, who, refName, refKey string) {
		rule := func(principal, name, key string) (r Rule, ok bool) {
			g := Grant{Principals: []string{principal}, Secrets: []string{name}}
			if key != "" {
				g.Keys = []string{key}
			}
			p, err := NewPolicy(secret.KindAzureKeyVault, []string{prod}, []Grant{g})
			if err != nil {
				return Rule{}, false
			}
			return p.Rules()[0], true
		}
		a, ok := rule(principal, name, key)
		b, ok2 := rule(principal2, name2, key2)
		p, err := ParsePrincipal(who)
		text := prod + "::" + refName
		if refKey != "" {
			text += "::" + refKey
		}
		ref, err2 := secret.ParseRef(text)
		if !ok || !ok2 || err != nil || err2 != nil {
			return
		}
		if a.Covers(b) && tellsApart(policyOf(t, a), policyOf(t, b), p, ref) {
			t.Fatalf("%+v is said to cover %+v, but does not give %s to %s", a, b, ref, p)
		}
		if got, want := NewRuleSet([]Rule{a}).Covers(b), a.Covers(b); got != want {
			t.Fatalf("a set of %+v covers %+v: %v, the rule itself: %v", a, b, got, want)
		}
	})
}
