package authz

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// Grant allows the principals that match one of Principals to read the secrets that
// match Stores, Secrets and Keys. If one of these three is nil, it does not restrict
// the grant. An empty list is an error, because its author could have meant
// everything or nothing.
type Grant struct {
	// ID identifies the grant in records and answers. Package integration ensures that the
	// ids of an integration's grants differ.
	ID string
	// Principals are patterns: a complete ID; a SPIFFE ID ending in "*", which
	// matches the rest of one path segment; a SPIFFE ID ending in "/**", which
	// matches everything below; or "dns:*.DOMAIN", which matches one more label.
	Principals []string
	// Stores are stores of the integration.
	Stores []string
	// Secrets are names, or prefixes of names followed by "*". They are compared in
	// the same way as the store compares names.
	Secrets []string
	// Keys are JSON keys, or prefixes of keys followed by "*", compared byte by
	// byte. A grant with Keys never allows a principal to read a whole secret.
	Keys []string
}

// GrantError is an error in a grant. Index is the position in the list Field, or -1
// for the list itself.
type GrantError struct {
	Grant int
	Field string
	Index int
	Text  string
}

func (e *GrantError) Error() string {
	if e.Index < 0 {
		return fmt.Sprintf("grants[%d].%s: %s", e.Grant, e.Field, e.Text)
	}
	return fmt.Sprintf("grants[%d].%s[%d]: %s", e.Grant, e.Field, e.Index, e.Text)
}

// Effect is the result of a Decision.
type Effect uint8

// The effects, in ascending order of strength. The zero Effect is Denied.
const (
	// Denied: no grant allows this principal to read this secret.
	Denied Effect = iota
	// StoreNotAllowed: a grant matches, but the store is not one of the
	// integration's.
	StoreNotAllowed
	// Allowed: a grant allows the read.
	Allowed
)

func (e Effect) String() string {
	switch e {
	case Allowed:
		return "allowed"
	case StoreNotAllowed:
		return "store_not_allowed"
	default:
		return "denied"
	}
}

// Decision is the answer to "may this principal read this reference?".
type Decision struct {
	Effect Effect
	// Grant is the index of the grant that caused the Effect in Policy.Grants. It is not
	// meaningful if the Effect is Denied, nor for another Policy; see Policy.GrantID.
	Grant int
}

// Policy is the compiled form of one integration's stores and grants. It is
// immutable and safe for concurrent use. A nil Policy denies everything.
type Policy struct {
	stores   map[string]bool
	exact    map[string]*rules            // whole IDs
	inDomain map[string]*rules            // DNS domain -> the hosts directly below
	inDir    map[string]*patterns[*rules] // SPIFFE directory -> patterns of the last path segment
	below    map[string]*rules            // SPIFFE directory -> everything below it

	// grants are the grants in canonical form. Only explanations and GrantID use them,
	// not Decide.
	grants []Grant
}

// rules is the secrets that the principals of one pattern may read, by name.
type rules struct{ names patterns[[]narrowing] }

// narrowing is the restrictions of one grant beyond the secret's name.
type narrowing struct {
	grant  int
	stores map[string]bool     // nil: all of the integration's
	keys   *patterns[struct{}] // nil: all keys, and the whole secret
}

// NewPolicy compiles the grants of an integration of the given kind. stores are the
// integration's stores in canonical form. The error joins one *GrantError for each
// mistake.
func NewPolicy(kind secret.Kind, stores []string, grants []Grant) (*Policy, error) {
	p := &Policy{
		stores:   make(map[string]bool, len(stores)),
		exact:    make(map[string]*rules),
		inDomain: make(map[string]*rules),
		inDir:    make(map[string]*patterns[*rules]),
		below:    make(map[string]*rules),
		grants:   make([]Grant, 0, len(grants)),
	}
	for _, s := range stores {
		p.stores[s] = true
	}
	var faults []error
	for i, g := range grants {
		c := &compiler{policy: p, kind: kind, grant: i, faults: &faults}
		c.add(g)
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return p, nil
}

// Decide reports whether who may read ref. It does no I/O and does not allocate.
//
// It examines patterns from the most to the least specific, first by principal and
// then by secret name, and stops at the first grant that allows the read. The grant
// in the Decision, which the audit log records, therefore does not depend on the
// order of a map.
func (p *Policy) Decide(who Principal, ref secret.Ref) Decision {
	if p == nil || who == "" {
		return Decision{}
	}
	id := string(who)
	var found Decision
	check := func(r *rules) (goOn bool) {
		stopped := r.names.match(ref.Name, func(ns []narrowing) bool {
			for i := range ns {
				if d := p.judge(&ns[i], ref); d.Effect > found.Effect {
					found = d
					if d.Effect == Allowed {
						return false
					}
				}
			}
			return true
		})
		return !stopped
	}
	if r, ok := p.exact[id]; ok && !check(r) {
		return found
	}
	if domain, ok := dnsParent(id); ok {
		if r, ok := p.inDomain[domain]; ok {
			check(r)
		}
		return found
	}
	nearest := true
	who.ancestors(func(dir, rest string) bool {
		if nearest {
			nearest = false
			if segments, ok := p.inDir[dir]; ok && segments.match(rest, check) {
				return false
			}
		}
		if r, ok := p.below[dir]; ok {
			return check(r)
		}
		return true
	})
	return found
}

// HasStore reports whether the integration lists a store, in canonical form.
func (p *Policy) HasStore(store string) bool { return p != nil && p.stores[store] }

// GrantID returns the ID of the grant that caused a decision of this policy, "" if the
// decision is Denied. It does not allocate.
func (p *Policy) GrantID(d Decision) string {
	if p == nil || d.Effect == Denied {
		return ""
	}
	return p.grants[d.Grant].ID
}

// HasGrant reports whether a grant names who, whichever secrets it allows.
func (p *Policy) HasGrant(who Principal) bool {
	if p == nil || who == "" {
		return false
	}
	id := string(who)
	if p.exact[id] != nil {
		return true
	}
	if domain, ok := dnsParent(id); ok {
		return p.inDomain[domain] != nil
	}
	found, nearest := false, true
	who.ancestors(func(dir, rest string) bool {
		segments := p.inDir[dir]
		found = p.below[dir] != nil || nearest && segments != nil && segments.match(rest, func(*rules) bool { return false })
		nearest = false
		return !found
	})
	return found
}

func (p *Policy) judge(n *narrowing, ref secret.Ref) Decision {
	if n.keys != nil && (ref.Key == "" || !n.keys.match(ref.Key, func(struct{}) bool { return false })) {
		return Decision{}
	}
	if n.stores != nil && !n.stores[ref.Store] {
		return Decision{}
	}
	if !p.stores[ref.Store] {
		return Decision{Effect: StoreNotAllowed, Grant: n.grant}
	}
	return Decision{Effect: Allowed, Grant: n.grant}
}

// compiler adds one grant to a Policy and collects its errors.
type compiler struct {
	policy *Policy
	kind   secret.Kind
	grant  int
	faults *[]error
}

func (c *compiler) fault(field string, index int, text string) {
	*c.faults = append(*c.faults, &GrantError{Grant: c.grant, Field: field, Index: index, Text: text})
}

func (c *compiler) add(g Grant) {
	if len(g.Principals) == 0 {
		c.fault("principals", -1, "a grant needs at least one principal")
	}
	n := narrowing{grant: c.grant, stores: c.stores(g.Stores), keys: c.keys(g.Keys)}
	names := c.names(g.Secrets)
	c.policy.grants = append(c.policy.grants, Grant{
		ID:         g.ID,
		Principals: slices.Clone(g.Principals),
		Stores:     slices.Sorted(maps.Keys(n.stores)), // nil if n.stores is nil
		Secrets:    names,
		Keys:       slices.Clone(g.Keys),
	})
	for i, pattern := range g.Principals {
		r, text := c.rulesOf(pattern)
		if text != "" {
			c.fault("principals", i, text)
			continue
		}
		for _, name := range names {
			r.names.update(name, func(ns []narrowing) []narrowing { return append(ns, n) })
		}
	}
}

func (c *compiler) stores(list []string) map[string]bool {
	if list == nil {
		return nil
	}
	if len(list) == 0 {
		c.fault("stores", -1, "the list is empty; leave it out to allow every store of the integration")
	}
	stores := make(map[string]bool, len(list))
	for i, s := range list {
		canonical, err := c.kind.ParseStore(s)
		if err != nil {
			c.fault("stores", i, secret.AsError(err).Message)
			continue
		}
		if !c.policy.stores[canonical] {
			c.fault("stores", i, "not a store of the integration; add it to the integration first")
			continue
		}
		stores[canonical] = true
	}
	return stores
}

func (c *compiler) names(list []string) []string {
	if list == nil {
		return []string{"*"}
	}
	if len(list) == 0 {
		c.fault("secrets", -1, "the list is empty; leave it out to allow every secret")
	}
	names := make([]string, 0, len(list))
	for i, s := range list {
		text := strings.TrimSuffix(s, "*")
		if s == "" || !c.kind.ValidNamePart(text) {
			c.fault("secrets", i, `expected a secret's name, or a prefix followed by one "*"`)
			continue
		}
		names = append(names, c.kind.FoldName(s))
	}
	return names
}

func (c *compiler) keys(list []string) *patterns[struct{}] {
	if list == nil {
		return nil
	}
	if len(list) == 0 {
		c.fault("keys", -1, "the list is empty; leave it out to allow every key and the whole secret")
	}
	var keys patterns[struct{}]
	for i, s := range list {
		if s == "" || strings.Contains(strings.TrimSuffix(s, "*"), "*") || !utf8.ValidString(s) {
			c.fault("keys", i, `expected a JSON key, or a prefix followed by one "*"`)
			continue
		}
		keys.update(s, func(struct{}) struct{} { return struct{}{} })
	}
	return &keys
}

// rulesOf returns the rules of a principal pattern, and creates them if necessary.
// text describes what is wrong with the pattern, and is empty if it is valid.
func (c *compiler) rulesOf(pattern string) (r *rules, text string) {
	if text := CheckPrincipalPattern(pattern); text != "" {
		return nil, text
	}
	p := c.policy
	if domain, ok := strings.CutPrefix(pattern, dnsWildcard); ok {
		return rulesAt(p.inDomain, domain), ""
	}
	if dir, ok := strings.CutSuffix(pattern, "**"); ok {
		return rulesAt(p.below, dir), ""
	}
	if strings.HasSuffix(pattern, "*") {
		dirLen := strings.LastIndexByte(pattern, '/') + 1
		segments := p.inDir[pattern[:dirLen]]
		if segments == nil {
			segments = &patterns[*rules]{}
			p.inDir[pattern[:dirLen]] = segments
		}
		segments.update(pattern[dirLen:], func(old *rules) *rules {
			if r = old; r == nil {
				r = &rules{}
			}
			return r
		})
		return r, ""
	}
	return rulesAt(p.exact, pattern), ""
}

func rulesAt(m map[string]*rules, key string) *rules {
	if m[key] == nil {
		m[key] = &rules{}
	}
	return m[key]
}
