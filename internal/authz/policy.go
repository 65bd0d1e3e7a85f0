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

// Grant lets the principals that match one of Principals read the secrets that
// match all the narrowings which are set. A nil narrowing leaves everything
// open. An empty one is an error, because it is unclear whether it means everything or nothing.
type Grant struct {
	// Principals are patterns: a whole ID; a SPIFFE ID ending in "*", which
	// matches the rest of one path segment; a SPIFFE ID ending in "/**", which
	// matches everything below; or "dns:*.DOMAIN" for one more label.
	Principals []string
	// Stores are stores of the integration.
	Stores []string
	// Secrets are names, or beginnings of names followed by "*", compared as the
	// store compares them.
	Secrets []string
	// Keys are JSON keys, or beginnings followed by "*", compared exactly. A
	// grant narrowed to keys never gives out a whole secret.
	Keys []string
}

// GrantError is a fault in a grant and its position: Index is the
// element of the list Field, or -1 for the list itself.
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

// Effect is what a Policy says to a request.
type Effect uint8

// The zero Effect is Denied.
const (
	// Denied: no grant gives this principal this secret.
	Denied Effect = iota
	// StoreNotAllowed: a grant would, but the store is not one of the
	// integration's.
	StoreNotAllowed
	// Allowed: the grant of the Decision gives it.
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
	// Grant is the index of the grant that led to the Effect; it means nothing
	// when the Effect is Denied.
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

	// grants is what the maps were made of, in canonical form. Decide does not
	// look at it; explanations do.
	grants []Grant
}

// rules is what the principals of one pattern may read, by secret name.
type rules struct{ names patterns[[]narrowing] }

// narrowing is what one grant says beyond the secret's name.
type narrowing struct {
	grant  int
	stores map[string]bool     // nil: any of the integration's
	keys   *patterns[struct{}] // nil: any key, and the whole secret
}

// NewPolicy compiles the grants of an integration whose stores, of the given
// kind and in canonical form, are listed. The error joins a *GrantError for
// every fault.
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

// Decide says whether who may read ref. It does no I/O and does not allocate.
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

// compiler adds one grant to a Policy.
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
		Principals: slices.Clone(g.Principals),
		Stores:     slices.Sorted(maps.Keys(n.stores)), // nil of nil
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
		c.fault("vaults", -1, "the list is empty; leave it out to allow every store of the integration")
	}
	stores := make(map[string]bool, len(list))
	for i, s := range list {
		canonical, err := c.kind.ParseStore(s)
		if err != nil {
			c.fault("vaults", i, secret.AsError(err).Message)
			continue
		}
		if !c.policy.stores[canonical] {
			c.fault("vaults", i, "not one of the integration's stores; add it there first")
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
			c.fault("secrets", i, `expected a secret's name, or its beginning and one "*" at the end`)
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
			c.fault("keys", i, `expected a JSON key, or its beginning and one "*" at the end`)
			continue
		}
		keys.update(s, func(struct{}) struct{} { return struct{}{} })
	}
	return &keys
}

// rulesOf returns the rules of a principal pattern and creates them if there are
// none; text says what is wrong with the pattern.
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
