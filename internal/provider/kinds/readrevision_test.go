package kinds

import (
	"reflect"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/awssm"
	"github.com/secretbroker/secretbroker/internal/provider/azurekv"
	"github.com/secretbroker/secretbroker/internal/provider/gcpsm"
	"github.com/secretbroker/secretbroker/internal/provider/localfile"
	"github.com/secretbroker/secretbroker/internal/provider/vaultkv"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// edits are the fields of an Integration that no read depends on. A new field of
// Integration is not among them, so its author must add it deliberately.
var edits = []string{
	"Revision", "ReadRevision", "DisplayName", "Policy", "Roles", "Placement.Cloud", "Placement.Region",
	"CacheTTL", "CacheMaxStale", "Reads.PerSecond",
}

// leaf is a field that a test can change.
type leaf struct {
	name  string
	value reflect.Value
}

// leaves fills every pointer, list and map below v, and returns all fields that hold
// a value.
func leaves(t *testing.T, name string, v reflect.Value) []leaf {
	t.Helper()
	switch v.Kind() { //nolint:exhaustive // default
	case reflect.Struct:
		var all []leaf
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if f.Name == "Credentials" && name == "" {
				continue // see TestReadRevisionOfCredentials
			}
			if !f.IsExported() || f.Tag.Get("json") != "" {
				t.Fatalf("%s.%s: the revision of reads cannot see it", name, f.Name)
			}
			all = append(all, leaves(t, strings.TrimPrefix(name+"."+f.Name, "."), v.Field(i))...)
		}
		return all
	case reflect.Pointer:
		if v.Type() == reflect.TypeFor[*authz.Policy]() || v.Type() == reflect.TypeFor[*authz.Roles]() {
			return []leaf{{name, v}}
		}
		if v.CanSet() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		return leaves(t, name, v.Elem())
	case reflect.Interface:
		return leaves(t, name, v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		return leaves(t, name+"[0]", v.Index(0))
	default:
		return []leaf{{name, v}}
	}
}

// change changes the value.
func (l leaf) change(t *testing.T) {
	t.Helper()
	switch v := l.value; v.Kind() { //nolint:exhaustive // default
	case reflect.String:
		v.SetString(v.String() + "x")
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Int, reflect.Int64:
		v.SetInt(v.Int() + 1)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
	case reflect.Map:
		m := reflect.MakeMap(v.Type())
		element := reflect.New(v.Type().Elem()).Elem()
		m.SetMapIndex(reflect.ValueOf("k"), element)
		v.Set(m)
	default:
		t.Fatalf("%s: this test cannot change a %s", l.name, v.Kind())
	}
}

// Every field of an integration affects the revision for reads, unless the list of
// exceptions contains it.
func TestReadRevisionCoversEverything(t *testing.T) {
	total := 0
	for _, settings := range []integration.Settings{&azurekv.Settings{}, &awssm.Settings{}, &gcpsm.Settings{}, &vaultkv.Settings{}, &localfile.Settings{}} {
		total += coversEverything(t, &integration.Integration{Settings: settings})
	}
	if total < 100 {
		t.Fatalf("%d fields", total)
	}
}

func coversEverything(t *testing.T, in *integration.Integration) (fields int) {
	t.Helper()
	digests := map[string]integration.Digest{"k": {1}}
	all := leaves(t, "", reflect.ValueOf(in).Elem())
	edited := make(map[string]bool)
	for _, name := range edits {
		edited[name] = true
	}
	for _, l := range all {
		before := integration.ReadRevision(in, "", digests)
		l.change(t)
		after := integration.ReadRevision(in, "", digests)
		if again := integration.ReadRevision(in, "", digests); again != after {
			t.Fatalf("%s: two revisions of one state", l.name)
		}
		if (before == after) != edited[l.name] {
			t.Errorf("%s: the revision changes: %v", l.name, before != after)
		}
		delete(edited, l.name)
	}
	if len(edited) > 0 {
		t.Errorf("there are no fields %v", edited)
	}
	return len(all)
}

func TestReadRevisionOfCredentials(t *testing.T) {
	in := &integration.Integration{ID: "a", Kind: secret.KindAzureKeyVault, Credentials: map[string]integration.Credential{"x": nil, "y": nil}}
	of := func(files string, d map[string]integration.Digest) string {
		return integration.ReadRevision(in, files, d)
	}
	both := map[string]integration.Digest{"x": {1}, "y": {2}}
	if of("", both) != of("", map[string]integration.Digest{"x": {1}, "y": {2}, "not used": {3}}) {
		t.Error("a credential that is not the integration's matters")
	}
	seen := map[string]string{}
	for what, revision := range map[string]string{
		"both":          of("", both),
		"another":       of("", map[string]integration.Digest{"x": {1}, "y": {3}}),
		"exchanged":     of("", map[string]integration.Digest{"x": {2}, "y": {1}}),
		"files":         of("0123", both),
		"unknown":       of("", map[string]integration.Digest{"x": {1}}),
		"unknown again": of("", map[string]integration.Digest{"x": {1}}),
	} {
		if other := seen[revision]; other != "" {
			t.Errorf("%s and %s have one revision", what, other)
		}
		seen[revision] = what
	}
}
