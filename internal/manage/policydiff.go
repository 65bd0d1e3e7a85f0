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

// Changes are the differences between two sets of integrations, sorted by integration id.
// Integrations that do not differ are omitted.
type Changes []Change

// Change is the difference in one integration.
type Change struct {
	IntegrationID string
	Kind          ChangeKind
	// Gained are the new permissions that no single old one covers, and Lost the old
	// ones that no single new one covers; both are sorted. The form and the order of
	// the grants do not matter.
	Gained, Lost []authz.Rule
	// Notes are differences that change no permission of a principal but the secrets
	// that the permissions reach. An integration that is added or removed has none.
	Notes []Note
}

// ChangeKind is the kind of a Change.
type ChangeKind string

// The kinds of change. JSON output contains them, so they must not be renamed.
const (
	Added   ChangeKind = "added"
	Removed ChangeKind = "removed"
	Changed ChangeKind = "changed"
)

// Note is a setting that differs. If only one side has an element of a list or table, the
// value of the other side is empty.
type Note struct {
	// Setting is its name in the integration's file, for example
	// "azure.tenant_id".
	Setting string
	// Old and New are empty if the setting is not set.
	Old, New string
}

// String describes the difference in words.
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
// integrations correspond if their ids are equal: a permission of another integration does
// not replace one that is lost, because that integration has another cloud identity.
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

// notes compares the settings other than grants. It ignores paths of files, which differ
// between checkouts.
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

// union returns the settings of both lists, each setting to compare once, in the order of
// the sections and with the elements of lists and tables sorted.
func union(lists ...[]integration.Setting) []integration.Setting {
	base := func(s integration.Setting) string { name, _, _ := strings.Cut(s.Name, "["); return name }
	var all []integration.Setting
	rank := make(map[string]int)
	seen := make(map[integration.Setting]bool)
	for _, s := range slices.Concat(lists...) {
		if !s.Element {
			s.Value = "" // a changed value is one difference
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

// valueOf returns the value of the setting s in settings. For an element of a list that is
// the element itself, if the list has it.
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
