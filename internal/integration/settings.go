package integration

import (
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Setting is one setting of an integration for display. It does not contain paths of
// files, only whether one is set.
type Setting struct {
	// Name is its name in the integration's file, for example "azure.tenant_id".
	Name string
	// Value is empty if the setting is not set.
	Value string
	// Element is whether Value is one element of a list; every element has its own
	// Setting.
	Element bool
}

// ListSettings returns the settings of the section that belongs to the kind.
func (in *Integration) ListSettings() []Setting {
	if in.Settings == nil {
		return nil
	}
	return in.Settings.List()
}

// Elements are the settings of a list, sorted.
func Elements(name string, list []string) []Setting {
	settings := make([]Setting, len(list))
	for i, value := range slices.Sorted(slices.Values(list)) {
		settings[i] = Setting{Name: name, Value: value, Element: true}
	}
	return settings
}

// Table are the settings of a map, sorted by its keys.
func Table(name string, m map[string]string) []Setting {
	settings := make([]Setting, 0, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		settings = append(settings, Setting{Name: name + "[" + key + "]", Value: m[key]})
	}
	return settings
}

// IfSet returns the value of a setting that is true or false.
func IfSet(set bool) string {
	if set {
		return "true"
	}
	return ""
}

// IfFile returns the value of a setting that names a file.
func IfFile(path string) string {
	if path == "" {
		return ""
	}
	return "a file"
}

// SectionField returns the part of a setting's name that follows the section of the kind:
// ".vaults[0]" for "azure.vaults[0]". ok is false for a setting that all kinds have in
// common.
func SectionField(setting string) (rest string, ok bool) {
	i := strings.IndexAny(setting, ".[")
	if i < 0 {
		i = len(setting)
	}
	for f := range reflect.TypeFor[Document]().Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("yaml"), ","); name == setting[:i] {
			return "", false
		}
	}
	return setting[i:], true
}
