package config

import (
	"path/filepath"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDifferences changes every setting, one at a time.
func TestDifferences(t *testing.T) {
	load := func() *Config {
		c, err := Load(filepath.Join("testdata", "full.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	base := load()
	if got := base.Differences(load()); len(got) > 0 {
		t.Errorf("equal configurations differ in %v", got)
	}
	n := 0
	var change func(section string, v reflect.Value, root *Config)
	change = func(section string, v reflect.Value, root *Config) {
		for i := range v.NumField() {
			f := v.Field(i)
			name := section + v.Type().Field(i).Tag.Get("yaml")
			old := reflect.ValueOf(f.Interface())
			switch f.Kind() {
			case reflect.Struct:
				change(name+".", f, root)
				continue
			case reflect.String:
				f.SetString("other")
			case reflect.Int, reflect.Int64:
				f.SetInt(f.Int() + 1)
			case reflect.Bool:
				f.SetBool(!f.Bool())
			case reflect.Slice:
				if f.Len() == 0 {
					f.Set(reflect.MakeSlice(f.Type(), 1, 1))
				} else {
					f.SetZero()
				}
			default:
				t.Fatalf("%s is a %v", name, f.Kind())
			}
			n++
			if diff := cmp.Diff([]string{name}, base.Differences(root)); diff != "" {
				t.Error(diff)
			}
			f.Set(old)
		}
	}
	c := load()
	change("", reflect.ValueOf(c).Elem(), c)
	if n < 20 {
		t.Errorf("only %d settings", n)
	}
	c.Roles.Auditor, base.Roles.Auditor = nil, []string{}
	if got := base.Differences(c); len(got) > 0 {
		t.Errorf("an empty list differs from none: %v", got)
	}
}
