package manage

import (
	"maps"
	"reflect"
	"slices"
	"strconv"
)

// FieldChange is one setting that differs between two forms.
type FieldChange struct {
	// Setting is its name in the document, such as "azure.vaults" or "grants[2]".
	Setting string
	// Before and After are what stood there and what will; nil for nothing. They
	// are plain values: string, bool, int, []any, map[string]any.
	Before, After any
}

// Diff lists the settings that differ, in the order of their names. Either may be
// nil: an integration that is not there. Grants are compared one by one, by what
// they say, all other lists as a whole.
func Diff(before, after *Form) []FieldChange {
	treeOf := func(f *Form) map[string]any {
		if f == nil {
			return nil
		}
		return f.Tree()
	}
	a, b := treeOf(before), treeOf(after)
	grantsBefore, grantsAfter := listOf(a["grants"]), listOf(b["grants"])
	delete(a, "grants")
	delete(b, "grants")
	changes := diffMaps(nil, "", a, b)
	changes = append(changes, diffGrants(grantsBefore, grantsAfter)...)
	slices.SortStableFunc(changes, func(x, y FieldChange) int {
		switch {
		case x.Setting < y.Setting:
			return -1
		case x.Setting > y.Setting:
			return 1
		default:
			return 0
		}
	})
	return changes
}

func listOf(v any) []any {
	list, _ := v.([]any)
	return list
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

// diffGrants tells which grants are only on one side.
func diffGrants(before, after []any) (changes []FieldChange) {
	left := slices.Clone(after)
	for i, g := range before {
		j := slices.IndexFunc(left, func(other any) bool { return other != nil && reflect.DeepEqual(g, other) })
		if j >= 0 {
			left[j] = nil
			continue
		}
		changes = append(changes, FieldChange{"grants[" + strconv.Itoa(i) + "]", g, nil})
	}
	for j, g := range left {
		if g != nil {
			changes = append(changes, FieldChange{"grants[" + strconv.Itoa(j) + "]", nil, g})
		}
	}
	return changes
}

// settingsOf lists the settings that differ, each once, grants being one setting.
func settingsOf(changes []FieldChange) []string {
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
