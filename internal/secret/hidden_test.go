package secret

import (
	"reflect"
	"strings"
	"testing"
)

// reach collects all text and bytes that reflection can reach from v, in exported
// and unexported fields.
func reach(v reflect.Value, seen map[uintptr]bool, found *strings.Builder) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.Kind() == reflect.Pointer {
			if v.IsNil() || seen[v.Pointer()] {
				return
			}
			seen[v.Pointer()] = true
		}
		reach(v.Elem(), seen, found)
	case reflect.Struct:
		for i := range v.NumField() {
			reach(v.Field(i), seen, found)
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			reach(v.Index(i), seen, found)
		}
	case reflect.Map:
		for entries := v.MapRange(); entries.Next(); {
			reach(entries.Key(), seen, found)
			reach(entries.Value(), seen, found)
		}
	case reflect.String:
		found.WriteString(v.String())
	case reflect.Uint8:
		found.WriteByte(byte(v.Uint()))
	case reflect.Uint64: // eight bytes at a time
		for n := v.Uint(); n != 0; n >>= 8 {
			found.WriteByte(byte(n))
		}
	}
}

func reached(holder any) bool {
	var found strings.Builder
	reach(reflect.ValueOf(holder), make(map[uintptr]bool), &found)
	return shows(found.String())
}

func TestValueIsNotReachedByReflection(t *testing.T) {
	type careless struct{ p *struct{ b []byte } }
	if !reached(careless{&struct{ b []byte }{[]byte(planted)}}) || !reached(map[string]any{"k": &[]string{planted}}) {
		t.Error("the test would overlook what is not hidden")
	}
	for name, holder := range holders() {
		if reached(holder) {
			t.Errorf("%s: the value is reached", name)
		}
	}
}

// Values must not be comparable with ==, which would compare addresses.
func TestValueIsNotComparable(t *testing.T) {
	if reflect.TypeFor[Value]().Comparable() {
		t.Error("Values can be compared")
	}
}

func TestValueIsOneAllocation(t *testing.T) {
	s := document(`{"k":"` + strings.Repeat("v", 1000) + `","n":12}`)
	for _, key := range []string{"", "k", "n"} {
		var text string
		n := testing.AllocsPerRun(100, func() {
			v, err := s.Select(key)
			if err != nil {
				t.Fatal(err)
			}
			text = v.Reveal()
			v.Wipe()
		})
		if n > 2 { // with the text
			t.Errorf("%q, %d bytes: %v allocations", key, len(text), n)
		}
	}
}

func TestValueOfEveryLength(t *testing.T) {
	for n := range 70 {
		text := strings.Repeat("x", n)
		v := NewValue([]byte(text))
		w, buf := newValue(n)
		copy(buf, text)
		w.shorten(n / 2)
		if v.Reveal() != text || w.Reveal() != text[:n/2] || len(buf) != n || !wiped(buf[n/2:]) {
			t.Errorf("%d bytes: %q, %q", n, v.Reveal(), w.Reveal())
		}
		if buf = v.open(); len(buf) != n {
			t.Errorf("%d bytes: %d are open", n, len(buf))
		}
		v.close()
		if v.Wipe(); !wiped(buf) {
			t.Errorf("%d bytes: %q is left", n, buf)
		}
	}
}
