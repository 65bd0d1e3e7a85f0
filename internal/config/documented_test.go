package config

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// settingPaths returns the settings of a section that have single values or lists of them.
func settingPaths(t reflect.Type, section string) []string {
	var paths []string
	for f := range t.Fields() {
		path := section + f.Tag.Get("yaml")
		switch {
		case f.Type.Kind() == reflect.Struct:
			paths = append(paths, settingPaths(f.Type, path+".")...)
		case f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct:
			paths = append(paths, settingPaths(f.Type.Elem(), path+"[].")...)
		default:
			paths = append(paths, path)
		}
	}
	return paths
}

// TestSettingsAreDocumented compares the first column of the first table of
// docs/configuration.md with the settings. A name without a section is in the section of the
// name before it.
func TestSettingsAreDocumented(t *testing.T) {
	guide, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rows, _ := strings.Cut(string(guide), "| setting | default | |\n|---|---|---|\n")
	rows, _, _ = strings.Cut(rows, "\n\n")
	name := regexp.MustCompile("`([a-z_.\\[\\]]+)`")
	var documented []string
	for row := range strings.Lines(rows) {
		cell := strings.SplitN(row, "|", 3)[1]
		section := ""
		for _, m := range name.FindAllStringSubmatch(cell, -1) {
			path := m[1]
			if i := strings.LastIndex(path, "."); i >= 0 {
				section = path[:i+1]
			} else {
				path = section + path
			}
			documented = append(documented, path)
		}
	}
	settings := settingPaths(reflect.TypeFor[Config](), "")
	slices.Sort(settings)
	slices.Sort(documented)
	if diff := cmp.Diff(settings, documented); diff != "" {
		t.Errorf("docs/configuration.md (-settings +documented):\n%s", diff)
	}
}
