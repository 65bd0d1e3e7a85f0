package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

const planted = "pl4nted-Secret"

// disguises are the forms in which a careless print would show the planted secret.
func disguises() []string {
	b := []byte(planted)
	plain := fmt.Sprint(b) // [112 108 ...]
	return []string{
		planted, strings.ToLower(planted), strings.ToUpper(planted),
		hex.EncodeToString(b), strings.ToUpper(hex.EncodeToString(b)), fmt.Sprintf("% x", b), fmt.Sprintf("%#v", b),
		fmt.Sprintf("%b", b), fmt.Sprintf("%o", b), fmt.Sprintf("%c", b), fmt.Sprintf("%U", b),
		strings.Trim(plain, "[]"), strings.ReplaceAll(strings.Trim(plain, "[]"), " ", ","),
		base64.StdEncoding.EncodeToString(b),
	}
}

func shows(text string) bool {
	for _, d := range disguises() {
		if strings.Contains(text, d) {
			return true
		}
	}
	return false
}

// Every way in which a printed struct may contain a value.
func holders() map[string]any {
	type unexported struct{ v Value }
	type pointer struct{ v *Value }
	type embedded struct{ Value }
	type deep struct {
		m map[string][]unexported
		i any
	}
	v := NewValue([]byte(planted))
	s := New("v1", time.Unix(0, 0), time.Time{}, []byte(planted))
	j := New("v1", time.Unix(0, 0), time.Time{}, []byte(`{"k":"`+planted+`"}`))
	field, err := j.Select("k")
	if err != nil {
		panic(err)
	}
	return map[string]any{
		"value":            v,
		"pointer":          &v,
		"exported field":   struct{ V Value }{v},
		"unexported field": unexported{v},
		"pointer to it":    &unexported{v},
		"pointer field":    &pointer{&v},
		"slice":            []Value{v},
		"array":            [1]Value{v},
		"map":              map[string]Value{"k": v},
		"map of pointers":  map[string]*Value{"k": &v},
		"map of structs":   map[string]unexported{"k": {v}},
		"deep":             deep{m: map[string][]unexported{"k": {{v}}}, i: v},
		"embedded":         embedded{v},
		"secret":           s,
		"secret itself":    *s,
		"parsed secret":    j,
		"secret in struct": struct{ s *Secret }{j},
		"selected":         field,
		"error":            fmt.Errorf("resolve: %v", v),
		"error with cause": Errorf(ReasonInternal, "%v %q", v, v).WithCause(fmt.Errorf("%+v %#v", v, unexported{v})),
		"joined errors":    errors.Join(fmt.Errorf("%s", v), fmt.Errorf("%+v", *j)),
	}
}

func TestDisguisesAreFound(t *testing.T) {
	type careless struct{ b []byte }
	for _, text := range []string{planted, fmt.Sprintf("%v", careless{[]byte(planted)}), fmt.Sprintf("%x", planted)} {
		if !shows(text) {
			t.Errorf("the test would overlook %q", text)
		}
	}
}

func TestValueIsNeverFormatted(t *testing.T) {
	const verbs = "vTtbcdoOqxXUeEfFgGspw"
	for name, holder := range holders() {
		t.Run(name, func(t *testing.T) {
			texts := []string{fmt.Sprint(holder), fmt.Sprintln(holder)}
			for _, verb := range verbs {
				for _, flags := range []string{"", "+", "#", "-", " ", "0", "# ", "+#", "40.20", "#40"} {
					texts = append(texts, fmt.Sprintf("%"+flags+string(verb), holder))
				}
			}
			for _, text := range texts {
				if shows(text) {
					t.Errorf("the value shows: %q", text)
				}
			}
		})
	}
}

func TestValueIsNeverEncoded(t *testing.T) {
	encoders := map[string]func(any) ([]byte, error){
		"json":        json.Marshal,
		"json indent": func(v any) ([]byte, error) { return json.MarshalIndent(v, "", " ") },
		"xml":         xml.Marshal,
		"gob": func(v any) ([]byte, error) {
			var b bytes.Buffer
			err := gob.NewEncoder(&b).Encode(v)
			return b.Bytes(), err
		},
	}
	for format, encode := range encoders {
		for name, holder := range holders() {
			out, err := encode(holder) // some cannot be encoded; the output must not show the value even then
			if shows(string(out)) || err != nil && shows(err.Error()) {
				t.Errorf("%s of %s shows the value: %q, %v", format, name, out, err)
			}
		}
	}
}

func TestValueIsNeverLogged(t *testing.T) {
	handlers := map[string]func(*bytes.Buffer) slog.Handler{
		"text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		"json": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	}
	for format, handler := range handlers {
		for name, holder := range holders() {
			var b bytes.Buffer
			log := slog.New(handler(&b)).With("with", holder)
			log.Info("m", "any", holder, slog.Group("group", "inner", holder))
			log.WithGroup("g").Error("m", slog.Any("slice", []any{holder}))
			if b.Len() == 0 || shows(b.String()) {
				t.Errorf("%s log of %s: %q", format, name, b.String())
			}
		}
	}
}

func TestValueSaysThatItIsHidden(t *testing.T) {
	v := NewValue([]byte(planted))
	marshalled, err := json.Marshal(map[string]Value{"k": v})
	if err != nil {
		t.Fatal(err)
	}
	var logged bytes.Buffer
	slog.New(slog.NewTextHandler(&logged, nil)).Info("m", "v", v)
	for _, text := range []string{fmt.Sprintf("%v", v), fmt.Sprintf("%#v", v), fmt.Sprint(&v), string(marshalled), logged.String()} {
		if !strings.Contains(text, redacted) {
			t.Errorf("%q does not say %s", text, redacted)
		}
	}
}

func TestValueReveal(t *testing.T) {
	for _, text := range []string{"", "x", planted, "\x00\xff", strings.Repeat("long ", 10_000)} {
		v := NewValue([]byte(text))
		if v.Reveal() != text || string(v.RevealBytes()) != text || v.Len() != len(text) || v.IsText() != utf8.ValidString(text) {
			t.Errorf("Reveal, RevealBytes, Len, IsText of %d bytes = %d bytes, %d bytes, %d, %v",
				len(text), len(v.Reveal()), len(v.RevealBytes()), v.Len(), v.IsText())
		}
	}
	v := NewValue([]byte("mine"))
	clear(v.RevealBytes())
	if v.Reveal() != "mine" {
		t.Errorf("clearing the copy changed the value to %q", v.Reveal())
	}
	var zero Value
	if zero.Reveal() != "" || zero.Len() != 0 || zero.String() != redacted {
		t.Errorf("the zero Value: %q, %d, %q", zero.Reveal(), zero.Len(), zero.String())
	}
}
