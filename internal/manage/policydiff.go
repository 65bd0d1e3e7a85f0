package manage

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
)

// Changes are what one set of integrations gives and takes compared with
// another: by integration id, only those in which something differs.
type Changes []Change

// Change is what is different in one integration.
type Change struct {
	IntegrationID string
	Kind          ChangeKind
	// Gained are the new permissions that no single old one covers, Lost the old
	// ones that no single new one covers; sorted. How the grants are written and
	// ordered does not matter.
	Gained, Lost []authz.Rule
	// Notes are differences that give no principal a permission but change what the
	// permissions reach. An integration that is added or removed has none.
	Notes []Note
}

// ChangeKind says what happened to an integration.
type ChangeKind string

// The kinds of change. They are written to JSON: never rename one.
const (
	Added   ChangeKind = "added"
	Removed ChangeKind = "removed"
	Changed ChangeKind = "changed"
)

// Note is a setting that differs. For an element of a list or table that is only
// in one of the two, the other is empty.
type Note struct {
	// Setting is its name in the integration's file, for example
	// "azure.tenant_id".
	Setting string
	// Old and New are empty where it is not set.
	Old, New string
}

// String says it in words.
func (n Note) String() string {
	switch {
	case n.Old == "":
		return n.Setting + ": added " + n.New
	case n.New == "":
		return n.Setting + ": removed " + n.Old
	default:
		return n.Setting + ": changed from " + n.Old + " to " + n.New
	}
}

// ComparePolicies compares two sets of integrations, whose order does not matter. Two
// integrations are the same if their ids are: what one of them loses is never
// made up for by another, which has another cloud identity.
func ComparePolicies(before, after []*integration.Integration) Changes {
	old, now := make(map[string]*integration.Integration), make(map[string]*integration.Integration)
	ids := make(map[string]bool)
	for _, in := range before {
		old[in.ID], ids[in.ID] = in, true
	}
	for _, in := range after {
		now[in.ID], ids[in.ID] = in, true
	}
	var changes Changes
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		c := Change{IntegrationID: id, Kind: Changed}
		var oldRules, newRules []authz.Rule
		switch {
		case old[id] == nil:
			c.Kind = Added
			newRules = now[id].Policy.Rules()
		case now[id] == nil:
			c.Kind = Removed
			oldRules = old[id].Policy.Rules()
		default:
			c.Notes = notes(old[id], now[id])
			oldRules, newRules = old[id].Policy.Rules(), now[id].Policy.Rules()
		}
		c.Gained, c.Lost = notCovered(newRules, oldRules), notCovered(oldRules, newRules)
		if c.Kind != Changed || len(c.Gained)+len(c.Lost)+len(c.Notes) > 0 {
			changes = append(changes, c)
		}
	}
	return changes
}

// notCovered returns the rules that none of others covers, sorted.
func notCovered(rules, others []authz.Rule) []authz.Rule {
	set := authz.NewRuleSet(others)
	var left []authz.Rule
	for _, r := range rules {
		if !set.Covers(r) {
			left = append(left, r)
		}
	}
	slices.SortFunc(left, func(a, b authz.Rule) int {
		return cmp.Or(
			strings.Compare(a.Principal, b.Principal), strings.Compare(a.Store, b.Store),
			strings.Compare(a.Secret, b.Secret), strings.Compare(a.Key, b.Key),
		)
	})
	return left
}

// notes compares what is no grant. Paths of files are left out: the same
// integration has others in another checkout.
func notes(old, now *integration.Integration) []Note {
	var differ []Note
	compare := func(setting, was, is string) {
		if was != is {
			differ = append(differ, Note{Setting: setting, Old: was, New: is})
		}
	}
	compare("kind", string(old.Kind), string(now.Kind))
	was, is := old.ListSettings(), now.ListSettings()
	for _, s := range union(was, is) {
		compare(s.Name, valueOf(was, s), valueOf(is, s))
	}
	compare("cache.ttl", lifetime(old.CacheTTL), lifetime(now.CacheTTL))
	compare("cache.max_stale", lifetime(old.CacheMaxStale), lifetime(now.CacheMaxStale))
	return differ
}

// union returns what is in either list, each thing to compare once: in the
// order of the sections, the elements of a list or table sorted.
func union(lists ...[]integration.Setting) []integration.Setting {
	base := func(s integration.Setting) string { name, _, _ := strings.Cut(s.Name, "["); return name }
	var all []integration.Setting
	rank := make(map[string]int)
	seen := make(map[integration.Setting]bool)
	for _, s := range slices.Concat(lists...) {
		if !s.Element {
			s.Value = "" // the old and the new one are one difference
		}
		if _, ok := rank[base(s)]; !ok {
			rank[base(s)] = len(rank)
		}
		if !seen[s] {
			seen[s] = true
			all = append(all, s)
		}
	}
	slices.SortStableFunc(all, func(a, b integration.Setting) int {
		return cmp.Or(rank[base(a)]-rank[base(b)], strings.Compare(a.Name, b.Name), strings.Compare(a.Value, b.Value))
	})
	return all
}

// valueOf returns the value that the settings have at the position of s: of an element
// of a list its own if it is there.
func valueOf(settings []integration.Setting, s integration.Setting) string {
	for _, other := range settings {
		if other.Name == s.Name && (!s.Element || other.Value == s.Value) {
			return other.Value
		}
	}
	return ""
}

func lifetime(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}
