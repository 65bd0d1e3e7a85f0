package authz

import (
	"slices"
	"strings"
)

// Rule is one permission, cut out of a grant: the principals that match
// Principal may read what matches Secret and Key in Store. Two policies are
// compared by their Rules, so that it does not matter how grants are written.
type Rule struct {
	// Principal, Secret and Key are patterns as in a Grant, Store is one store;
	// all in canonical form.
	Principal, Store, Secret string
	// Key is empty for a rule that is not narrowed to keys: it gives the whole
	// secret and every key. "*" gives every key, but not the whole secret.
	Key string
}

// Rules returns what the policy gives, every Rule once, in the order of the
// grants. A grant to three principals for two secrets in four stores becomes 24.
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

// Covers reports whether r allows everything that other allows. It compares
// pattern with pattern: what other rules allow besides does not count.
func (r Rule) Covers(other Rule) bool {
	return coversPrincipal(r.Principal, other.Principal) &&
		r.Store == other.Store &&
		coversText(r.Secret, other.Secret) &&
		coversKey(r.Key, other.Key)
}

// coversKey: without a narrowing there is also the whole secret, which no
// pattern of keys gives.
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

// coversText compares patterns of names or keys.
func coversText(pattern, other string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(strings.TrimSuffix(other, "*"), prefix)
	}
	return pattern == other
}

// coversPrincipal compares patterns of principals.
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

// RuleSet finds out whether one rule of many covers another without asking each
// of them. It is immutable and safe for concurrent use.
type RuleSet struct {
	rules map[Rule]bool
	at    map[place][]Rule
}

// place is what the rules of one entry of a RuleSet have in common.
type place struct{ principal, store string }

// NewRuleSet makes a RuleSet of rules.
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
	if s.rules[r] { // nearly all of two versions of one policy
		return true
	}
	for _, pattern := range patternsOver(r.Principal) {
		if slices.ContainsFunc(s.at[place{pattern, r.Store}], func(c Rule) bool { return c.Covers(r) }) {
			return true
		}
	}
	return false
}

// patternsOver returns all patterns of principals that cover the given one.
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
