package authz

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// decideSlowly is the reference implementation of Decide: it compares the request with
// one grant after another. It returns all decisions that have the strongest effect.
func decideSlowly(stores []string, grants []Grant, who Principal, ref secret.Ref) []Decision {
	var decisions []Decision
	strongest := Denied
	for i, g := range grants {
		effect := effectOfGrant(stores, g, string(who), ref)
		decisions = append(decisions, Decision{effect, i})
		strongest = max(strongest, effect)
	}
	if strongest == Denied {
		return []Decision{{}}
	}
	return slices.DeleteFunc(decisions, func(d Decision) bool { return d.Effect != strongest })
}

func effectOfGrant(stores []string, g Grant, who string, ref secret.Ref) Effect {
	isOneOf := func(patterns []string, matches func(string) bool) bool {
		return patterns == nil || slices.ContainsFunc(patterns, matches)
	}
	granted := slices.ContainsFunc(g.Principals, func(pattern string) bool { return isPrincipal(pattern, who) }) &&
		isOneOf(g.Secrets, func(pattern string) bool { return isText(strings.ToLower(pattern), ref.Name) }) &&
		isOneOf(g.Keys, func(pattern string) bool { return ref.Key != "" && isText(pattern, ref.Key) }) &&
		isOneOf(g.Stores, func(store string) bool { return store == ref.Store })
	switch {
	case !granted:
		return Denied
	case !slices.Contains(stores, ref.Store):
		return StoreNotAllowed
	default:
		return Allowed
	}
}

func isText(pattern, s string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(s, prefix)
	}
	return s == pattern
}

func isPrincipal(pattern, who string) bool {
	switch {
	case strings.HasPrefix(pattern, "dns:*."):
		host, isDNS := strings.CutPrefix(who, "dns:")
		labels := strings.Split(host, ".")
		return isDNS && len(labels) > 1 && strings.Join(labels[1:], ".") == strings.TrimPrefix(pattern, "dns:*.")
	case strings.HasSuffix(pattern, "/**"):
		return strings.HasPrefix(who, strings.TrimSuffix(pattern, "**"))
	case strings.HasSuffix(pattern, "*"):
		want, have := strings.Split(pattern, "/"), strings.Split(who, "/")
		last := len(want) - 1
		return len(have) == len(want) && slices.Equal(have[:last], want[:last]) && isText(want[last], have[last])
	default:
		return who == pattern
	}
}

// compare checks that both implementations, and the explanation, agree on a request.
func compare(t *testing.T, p *Policy, stores []string, grants []Grant, who Principal, ref secret.Ref) Effect {
	t.Helper()
	got, want := p.Decide(who, ref), decideSlowly(stores, grants, who, ref)
	if got.Effect == Denied {
		got.Grant = 0
	}
	if !slices.Contains(want, got) {
		t.Fatalf("Decide(%s, %s) = %v by grant %d, want one of %v\nstores %q\ngrants %+v", who, ref, got.Effect, got.Grant, want, stores, grants)
	}
	checkExplanation(t, p, stores, grants, who, ref)
	checkReaders(t, p, stores, grants, who, ref)
	return got.Effect
}

// few returns up to n elements of pool, or sometimes nil.
func few(r *rand.Rand, n int, pool []string) []string {
	var list []string
	for range r.IntN(n + 1) {
		list = append(list, pool[r.IntN(len(pool))])
	}
	return list
}

// The pools for generated questions and grants. They are small, so that questions and
// grants often match.
var (
	namePool      = []string{"a", "ab", "abc", "b", "b-a", "A", "aB"}
	keyPool       = []string{"a", "A", "ab", "a.b", "é", "b"}
	principalPool = []string{
		"spiffe://td", "spiffe://td/a", "spiffe://td/ab", "spiffe://td/a/a", "spiffe://td/a/ab", "spiffe://td/a/b/a", "spiffe://tdx/a/a",
		"dns:td", "dns:a.td", "dns:ab.td", "dns:a.a.td", "dns:a.tdx",
	}
	namePatterns      = append([]string{"*", "a*", "ab*", "AB*", "b-*", "-*"}, namePool...)
	keyPatterns       = append([]string{"*", "a*", "A*", "a.*", "é*"}, keyPool...)
	principalPatterns = append([]string{
		"spiffe://td/*", "spiffe://td/**", "spiffe://td/a*", "spiffe://td/a/*", "spiffe://td/a/**", "spiffe://td/a/a*", "spiffe://td/a/b/**",
		"spiffe://tdx/**", "dns:*.td", "dns:*.a.td", "dns:*.tdx",
	}, principalPool...)
)

// someGrants returns up to n grants in the given stores.
func someGrants(r *rand.Rand, n int, stores []string) []Grant {
	grants := make([]Grant, r.IntN(n+1))
	for i := range grants {
		grants[i] = Grant{
			Principals: append(few(r, 2, principalPatterns), principalPatterns[r.IntN(len(principalPatterns))]),
			Stores:     few(r, 2, stores), Secrets: few(r, 3, namePatterns), Keys: few(r, 2, keyPatterns),
		}
	}
	return grants
}

// someQuestion returns a question for policies of prod and stage.
func someQuestion(t *testing.T, r *rand.Rand) (Principal, secret.Ref) {
	t.Helper()
	text := append(few(r, 1, []string{prod, stage}), other)[0] + "::" + namePool[r.IntN(len(namePool))]
	if key := few(r, 1, keyPool); key != nil {
		text += "::" + key[0]
	}
	return Principal(principalPool[r.IntN(len(principalPool))]), mustRef(t, text)
}

func TestDecideAgreesWithReference(t *testing.T) {
	stores := []string{prod, stage}
	seen := make(map[Effect]int)
	for seed := range uint64(1500) {
		r := rand.New(rand.NewPCG(seed, 0))
		grants := someGrants(r, 6, stores)
		p := mustPolicy(t, stores, grants...)
		for range 40 {
			who, ref := someQuestion(t, r)
			seen[compare(t, p, stores, grants, who, ref)]++
		}
	}
	for _, effect := range []Effect{Denied, StoreNotAllowed, Allowed} {
		if seen[effect] < 1000 {
			t.Errorf("%v came up %d times only: the test proves little of it", effect, seen[effect])
		}
	}
}

func FuzzDecide(f *testing.F) {
	f.Add("spiffe://td/a/*\nspiffe://td/**", "db*\nx", "password", "spiffe://td/a/b", "db-1", "password", uint8(0))
	f.Add("dns:*.td\ndns:a.td", "", "a.*\n*", "dns:a.td", "DB", "a.b", uint8(1))
	f.Add("spiffe://td/a*\nspiffe://td/a", "A*", "", "spiffe://td/ab", "a", "", uint8(2))
	f.Add("spiffe://td/**\nspiffe://td/a/**", "a\nab\na*", "é*", "spiffe://td/a/b/c", "ab", "ét", uint8(7))
	f.Fuzz(func(t *testing.T, principals, names, keys, who, name, key string, choice uint8) {
		lines := func(s string) []string {
			if s == "" {
				return nil
			}
			return strings.Split(s, "\n")
		}
		stores := []string{prod, stage}
		first := Grant{Principals: lines(principals), Secrets: lines(names), Keys: lines(keys)}
		second := Grant{Principals: lines(principals)[:min(1, len(lines(principals)))], Secrets: lines(names), Stores: []string{stores[choice&1]}}
		grants := []Grant{first, second}
		if choice&2 != 0 {
			slices.Reverse(grants)
		}
		p, err := NewPolicy(secret.KindAzureKeyVault, stores, grants)
		if err != nil {
			return
		}
		ref, err := secret.ParseRef(fmt.Sprintf("%s::%s%s", []string{prod, stage, other}[choice>>2%3], name, map[bool]string{true: "::" + key}[key != ""]))
		if err != nil {
			return
		}
		principal, ok := DNSPrincipal(strings.TrimPrefix(who, "dns:"))
		if id, err := spiffeid.FromString(who); err == nil {
			principal, ok = SPIFFEPrincipal(id), true
		}
		if ok {
			compare(t, p, stores, grants, principal, ref)
		}
	})
}
