package integration

import (
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// FieldChange is one setting that differs between two documents.
type FieldChange struct {
	// Setting is its name in the document, such as "azure.vaults" or "grants[2]".
	Setting string
	// Before and After are the old and the new value; nil if there is none. They are
	// plain values: string, bool, int, []any, map[string]any.
	Before, After any
}

// Diff returns the settings that differ, sorted by name. Either document may be nil for an
// integration that does not exist. Diff compares grants individually and independent of
// their order, and all other lists as a whole.
func Diff(before, after *Document) []FieldChange {
	gone, added := differentGrants(before, after)
	a, b := treeWith(before, gone), treeWith(after, added)
	grantsBefore, grantsAfter := listOf(a["grants"]), listOf(b["grants"])
	delete(a, "grants")
	delete(b, "grants")
	changes := diffMaps(nil, "", a, b)
	for n, i := range gone {
		changes = append(changes, FieldChange{"grants[" + strconv.Itoa(i) + "]", grantsBefore[n], nil})
	}
	for n, i := range added {
		changes = append(changes, FieldChange{"grants[" + strconv.Itoa(i) + "]", nil, grantsAfter[n]})
	}
	slices.SortStableFunc(changes, func(x, y FieldChange) int { return strings.Compare(x.Setting, y.Setting) })
	return changes
}

// treeWith returns f as plain values, with only the given grants: there may be thousands, and
// few of them differ.
func treeWith(f *Document, grants []int) map[string]any {
	if f == nil {
		return nil
	}
	short := *f
	short.Grants = make([]GrantSection, len(grants))
	for n, i := range grants {
		short.Grants[n] = f.Grants[i]
	}
	return short.Tree()
}

func listOf(v any) []any {
	list, _ := v.([]any)
	return list
}

// differentGrants returns the indexes of the grants that only one side has.
func differentGrants(before, after *Document) (gone, added []int) {
	var a, b []GrantSection
	if before != nil {
		a = before.Grants
	}
	if after != nil {
		b = after.Grants
	}
	matched := make([]bool, len(b))
	next := 0 // after the last match; the next one is usually here
	for i := range a {
		same := func(j int) bool { return !matched[j] && sameText(&a[i], &b[j]) }
		j := next
		for n := 0; n < len(b) && !same(j%len(b)); n++ {
			j++
		}
		if j == next+len(b) {
			gone = append(gone, i)
			continue
		}
		matched[j%len(b)] = true
		next = (j + 1) % len(b)
	}
	for j := range b {
		if !matched[j] {
			added = append(added, j)
		}
	}
	return gone, added
}

// sameText reports whether two grants have the same ID and the same lists in the same order.
func sameText(g, other *GrantSection) bool {
	return g.ID == other.ID && slices.Equal(g.Principals, other.Principals) && slices.Equal(g.Stores, other.Stores) &&
		slices.Equal(g.Secrets, other.Secrets) && slices.Equal(g.Keys, other.Keys)
}

func diffMaps(found []FieldChange, path string, a, b map[string]any) []FieldChange {
	names := make(map[string]bool)
	for name := range a {
		names[name] = true
	}
	for name := range b {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		full := name
		if path != "" {
			full = path + "." + name
		}
		x, hadX := a[name]
		y, hasY := b[name]
		mx, xIsMap := x.(map[string]any)
		my, yIsMap := y.(map[string]any)
		switch {
		case (xIsMap || !hadX) && (yIsMap || !hasY):
			found = diffMaps(found, full, mx, my)
		case !reflect.DeepEqual(x, y):
			found = append(found, FieldChange{full, x, y})
		}
	}
	return found
}

// SettingNames returns the settings that differ, each once, with "grants" as one setting.
func SettingNames(changes []FieldChange) []string {
	var names []string
	for _, c := range changes {
		name := c.Setting
		if len(name) > 7 && name[:7] == "grants[" {
			name = "grants"
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// KeepGenerated copies the values that the broker generated from before to after, if after
// omits them.
func KeepGenerated(before, after *Document) error {
	if before == nil || before.Kind != after.Kind {
		return nil
	}
	had, _ := before.Generated()
	if _, wanted := after.Generated(); !wanted || had == nil {
		return nil
	}
	return after.SetGenerated(had)
}
