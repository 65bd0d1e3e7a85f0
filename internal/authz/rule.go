package authz

import (
	"slices"
	"strings"
)

// Rule is the smallest unit of a grant: the principals that match Principal may read
// the secrets and keys that match Secret and Key in Store. Policies are compared by
// their Rules, so the comparison does not depend on how grants are written.
type Rule struct {
	// Principal, Secret and Key are patterns as in a Grant, Store is one store;
	// all in canonical form.
	Principal, Store, Secret string
	// Key is empty for a rule that is not restricted to keys: it allows the whole
	// secret and every key. "*" allows every key, but not the whole secret.
	Key string
}

// Rules returns the policy as Rules, without duplicates, in the order of the grants.
// A grant to three principals for two secrets in four stores becomes 24 Rules.
func (p *Policy) Rules() []Rule {
	if p == nil {
		return nil
	}
	every := make([]string, 0, len(p.stores))
	for store := range p.stores {
		every = append(every, store)
	}
	slices.Sort(every)

	var rules []Rule
	seen := make(map[Rule]bool)
	for _, g := range p.grants {
		stores, keys := g.Stores, g.Keys
		if stores == nil {
			stores = every
		}
		if keys == nil {
			keys = []string{""}
		}
		for _, principal := range g.Principals {
			for _, store := range stores {
				for _, name := range g.Secrets {
					for _, key := range keys {
						if r := (Rule{principal, store, name, key}); !seen[r] {
							seen[r] = true
							rules = append(rules, r)
						}
					}
				}
			}
		}
	}
	return rules
}

// Covers reports whether r allows everything that other allows.
func (r Rule) Covers(other Rule) bool {
	return coversPrincipal(r.Principal, other.Principal) &&
		r.Store == other.Store &&
		coversText(r.Secret, other.Secret) &&
		coversKey(r.Key, other.Key)
}

// coversKey compares the Key of two rules. A rule without Key allows the whole secret
// too, which no pattern for keys does.
func coversKey(key, other string) bool {
	switch {
	case key == "":
		return true
	case other == "":
		return false
	default:
		return coversText(key, other)
	}
}

// coversText reports whether a pattern for names or keys matches everything that
// another matches.
func coversText(pattern, other string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(strings.TrimSuffix(other, "*"), prefix)
	}
	return pattern == other
}

// coversPrincipal reports whether a pattern for principals matches every principal
// that another matches.
func coversPrincipal(pattern, other string) bool {
	if pattern == other {
		return true
	}
	if domain, ok := strings.CutPrefix(pattern, dnsWildcard); ok {
		parent, ok := dnsParent(other)
		return ok && parent == domain
	}
	if dir, ok := strings.CutSuffix(pattern, "**"); ok {
		return strings.HasPrefix(other, dir)
	}
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		rest, ok := strings.CutPrefix(other, prefix)
		return ok && !strings.Contains(rest, "/") && !strings.HasSuffix(other, "/**")
	}
	return false
}

// RuleSet is an index of many rules. It finds a rule that covers another without
// examining each. It is immutable and safe for concurrent use.
type RuleSet struct {
	rules map[Rule]bool
	at    map[place][]Rule
}

// place is the key of the index: the rules of one entry have it in common.
type place struct{ principal, store string }

// NewRuleSet returns an index of rules.
func NewRuleSet(rules []Rule) *RuleSet {
	s := &RuleSet{rules: make(map[Rule]bool, len(rules)), at: make(map[place][]Rule)}
	for _, r := range rules {
		s.rules[r] = true
		at := place{r.Principal, r.Store}
		s.at[at] = append(s.at[at], r)
	}
	return s
}

// Covers reports whether one of the rules covers r.
func (s *RuleSet) Covers(r Rule) bool {
	if s.rules[r] { // fast path: two versions of a policy have most rules in common
		return true
	}
	for _, pattern := range patternsOver(r.Principal) {
		if slices.ContainsFunc(s.at[place{pattern, r.Store}], func(c Rule) bool { return c.Covers(r) }) {
			return true
		}
	}
	return false
}

// patternsOver returns all patterns for principals that cover the given one.
func patternsOver(pattern string) []string {
	over := []string{pattern}
	if domain, ok := dnsParent(pattern); ok {
		return append(over, dnsWildcard+domain)
	}
	nearest := true
	Principal(pattern).ancestors(func(dir, rest string) bool {
		over = append(over, dir+"**")
		if nearest && rest != "**" {
			beginning := strings.TrimSuffix(rest, "*")
			for n := range len(beginning) + 1 {
				over = append(over, dir+beginning[:n]+"*")
			}
		}
		nearest = false
		return true
	})
	return over
}
