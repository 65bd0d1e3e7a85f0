package reconcile

import (
	"slices"
	"strings"
)

// Mask returns the update mask that changes the given settings of a document, each named by
// its path in the file, such as "cache.ttl", "azure.vaults" or "grants[2]". section is the
// section of the document's kind, and wanted the document after the change.
func Mask(section string, settings []string, wanted map[string]any) []string {
	var mask []string
	for _, setting := range settings {
		path := setting
		name, rest, nested := strings.Cut(setting, ".")
		name, _, _ = strings.Cut(name, "[")
		switch {
		case name == section && nested:
			inner, _ := wanted[section].(map[string]any)
			path = "settings." + removed(inner, strings.Split(rest, "."))
		case name == section:
			path = "settings"
		case name == "grants", name == "roles": // always replaced as a whole
			path = name
		}
		if !slices.Contains(mask, path) {
			mask = append(mask, path)
		}
	}
	return mask
}

// removed returns path, or the section on it that settings do not have: the section is then
// removed as a whole, and not left empty.
func removed(settings map[string]any, path []string) string {
	for i, name := range path {
		inner, ok := settings[name].(map[string]any)
		if !ok {
			return strings.Join(path[:i+1], ".")
		}
		settings = inner
	}
	return strings.Join(path, ".")
}
