package authz

import (
	"maps"
	"slices"
	"strings"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// What is in this file looks at every grant in turn and compares text by text:
// it is for people who ask, not for the way of a request.

// Access is one grant that gives a secret to the principals of one pattern.
type Access struct {
	// Grant is the index of the grant.
	Grant int
	// Principal is the pattern as written in the grant.
	Principal string
}

// Match says which parts of one grant fit a question. The grant gives the secret
// if all of them do and the store is one of the integration's.
type Match struct {
	// Principal is the first of the grant's patterns that matches the caller, ""
	// if none does.
	Principal string
	// Store, Secret and Key are true also where the grant does not narrow them.
	Store, Secret, Key bool
}

// All reports whether every part fits.
func (m Match) All() bool { return m.Principal != "" && m.Store && m.Secret && m.Key }

// Explanation is how a Policy came to a Decision.
type Explanation struct {
	// Decision is what Decide says.
	Decision Decision
	// StoreListed: the store is one of the integration's.
	StoreListed bool
	// Grants has one Match for every grant, by its index.
	Grants []Match
}

// Grants returns the grants in canonical form: stores and names as the store
// compares them, and "*" where Secrets was nil. Callers must not change them.
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

// Readers returns every principal pattern to which a grant gives ref, in the order of the
// grants. It takes time in proportion to all grants.
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

// Explain says how Decide comes to its decision. It takes time in proportion to
// all grants. The zero Explanation is that of a nil Policy.
func (p *Policy) Explain(who Principal, ref secret.Ref) Explanation {
	if p == nil {
		return Explanation{}
	}
	e := Explanation{
		Decision:    p.Decide(who, ref), // the same code as for a call, so that they cannot differ
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

// patternOf returns the first pattern that matches who, "" if none does.
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

// matchesText reports whether a pattern of names or keys matches s.
func matchesText(pattern, s string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(s, prefix)
	}
	return s == pattern
}

// matchesPrincipal reports whether a pattern of principals matches who.
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
		return ok && !strings.Contains(rest, "/") // "*" ends with its segment
	}
	return id == pattern
}
