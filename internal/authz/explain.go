package authz

import (
	"maps"
	"slices"
	"strings"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// The functions in this file examine every grant and compare it pattern by pattern.
// They answer the questions of operators and are too slow for the path of a Resolve.

// Access is a grant that allows the principals of one pattern to read a secret.
type Access struct {
	// Grant is the index of the grant in Policy.Grants.
	Grant int
	// Principal is the pattern as written in the grant.
	Principal string
}

// Match reports which parts of one grant match a question. The grant allows the read
// if all parts match and the store is one of the integration's.
type Match struct {
	// Principal is the first of the grant's patterns that matches the caller, ""
	// if none does.
	Principal string
	// Store, Secret and Key are also true if the grant does not restrict them.
	Store, Secret, Key bool
}

// All reports whether every part matches.
func (m Match) All() bool { return m.Principal != "" && m.Store && m.Secret && m.Key }

// Explanation is how a Policy came to a Decision.
type Explanation struct {
	// Decision is the result of Decide.
	Decision Decision
	// StoreListed reports whether the store is one of the integration's.
	StoreListed bool
	// Grants contains one Match for each grant, at the grant's index.
	Grants []Match
}

// Grants returns the grants in canonical form: stores and names in the form in which
// the store compares them, and "*" if Secrets was nil. Callers must not modify them.
func (p *Policy) Grants() []Grant {
	if p == nil {
		return nil
	}
	return slices.Clip(p.grants)
}

// Stores returns the integration's stores, canonical and sorted.
func (p *Policy) Stores() []string {
	if p == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(p.stores))
}

// Readers returns each principal pattern that a grant allows to read ref, in the
// order of the grants. Its running time is proportional to the number of grants.
func (p *Policy) Readers(ref secret.Ref) []Access {
	if p == nil || !p.stores[ref.Store] {
		return nil
	}
	var readers []Access
	for i := range p.grants {
		g := &p.grants[i]
		if !g.hasStore(ref) || !g.hasSecret(ref) || !g.hasKey(ref) {
			continue
		}
		for _, pattern := range g.Principals {
			readers = append(readers, Access{Grant: i, Principal: pattern})
		}
	}
	return readers
}

// Explain returns the decision on a request and the reasons for it. Its running time
// is proportional to the number of grants. For a nil Policy it returns the zero
// Explanation.
func (p *Policy) Explain(who Principal, ref secret.Ref) Explanation {
	if p == nil {
		return Explanation{}
	}
	e := Explanation{
		Decision:    p.Decide(who, ref), // the code that decides calls, so the results cannot differ
		StoreListed: p.stores[ref.Store],
		Grants:      make([]Match, len(p.grants)),
	}
	for i := range p.grants {
		g := &p.grants[i]
		e.Grants[i] = Match{
			Principal: g.patternOf(who),
			Store:     g.hasStore(ref),
			Secret:    g.hasSecret(ref),
			Key:       g.hasKey(ref),
		}
	}
	return e
}

// patternOf returns the first pattern that matches who, or "" if none does.
func (g *Grant) patternOf(who Principal) string {
	i := slices.IndexFunc(g.Principals, func(pattern string) bool { return matchesPrincipal(pattern, who) })
	if i < 0 {
		return ""
	}
	return g.Principals[i]
}

func (g *Grant) hasStore(ref secret.Ref) bool {
	return g.Stores == nil || slices.Contains(g.Stores, ref.Store)
}

func (g *Grant) hasSecret(ref secret.Ref) bool {
	return slices.ContainsFunc(g.Secrets, func(pattern string) bool { return matchesText(pattern, ref.Name) })
}

func (g *Grant) hasKey(ref secret.Ref) bool {
	if g.Keys == nil {
		return true
	}
	return ref.Key != "" && slices.ContainsFunc(g.Keys, func(pattern string) bool { return matchesText(pattern, ref.Key) })
}

// matchesText reports whether s matches a pattern for names or keys.
func matchesText(pattern, s string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(s, prefix)
	}
	return s == pattern
}

// matchesPrincipal reports whether who matches a pattern for principals.
func matchesPrincipal(pattern string, who Principal) bool {
	id := string(who)
	if domain, ok := strings.CutPrefix(pattern, dnsWildcard); ok {
		parent, ok := dnsParent(id)
		return ok && parent == domain
	}
	if dir, ok := strings.CutSuffix(pattern, "**"); ok {
		return strings.HasPrefix(id, dir)
	}
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		rest, ok := strings.CutPrefix(id, prefix)
		return ok && !strings.Contains(rest, "/") // "*" does not match "/"
	}
	return id == pattern
}
