package secret

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"
)

// wiped reports whether a buffer contains only zeros.
func wiped(b []byte) bool {
	b = b[:cap(b)]
	return bytes.Count(b, []byte{0}) == len(b)
}

// panics returns the value that f panics with, nil if it does not panic.
func panics(f func()) (p any) {
	defer func() { p = recover() }()
	f()
	return nil
}

func TestTheLastReleaseWipes(t *testing.T) {
	doc := []byte(`{"k":"` + planted + `"}`)
	s := New("v7", time.Unix(1, 0), time.Unix(2, 0), doc)
	if !s.Retain() {
		t.Fatal("a new Secret cannot be retained")
	}
	checkSelect(t, s, "k", planted, "")
	s.Release()
	checkSelect(t, s, "k", planted, "")
	checkSelect(t, s, "", string(doc), "")
	if wiped(doc) {
		t.Fatal("wiped while there is a reference")
	}
	s.Release()
	if !wiped(doc) {
		t.Errorf("what is left: %q", doc)
	}
	for range 2 {
		checkSelect(t, s, "k", "", ReasonInternal)
		checkSelect(t, s, "x", "", ReasonInternal)
		checkSelect(t, s, "", "", ReasonInternal)
	}
	if s.Retain() {
		t.Error("what is gone comes back")
	}
	if s.Version != "v7" || s.Size() != len(doc) || !s.FetchedAt.Equal(time.Unix(1, 0)) || !s.ExpiresAt.Equal(time.Unix(2, 0)) {
		t.Errorf("what is said of the secret is gone: %+v, size %d", s, s.Size())
	}
	if panics(s.Release) == nil {
		t.Error("a release too many goes unnoticed")
	}
	(*Secret)(nil).Release()
}

// A buffer may have spare capacity.
func TestWipeTakesTheWholeBuffer(t *testing.T) {
	doc := []byte("the value and what was before")
	New("", time.Time{}, time.Time{}, doc[:9]).Release()
	value := []byte("the value and what was before")
	NewValue(value[:9]).Wipe()
	if !wiped(doc) || !wiped(value) {
		t.Errorf("what is left: %q, %q", doc, value)
	}
}

// Whenever the wipe happens, a reader gets either the complete value or an error,
// also while the document is being parsed.
func TestReadersNeverSeeAWipe(t *testing.T) {
	text := strings.Repeat(planted, 200)
	for round := range 300 {
		doc := []byte(`{"k":"` + text + `"}`)
		s := New("", time.Time{}, time.Time{}, doc)
		var readers sync.WaitGroup
		for reader := range 4 {
			key := []string{"", "k"}[reader%2]
			want := []string{string(doc), text}[reader%2]
			readers.Go(func() {
				for {
					v, err := s.Select(key)
					if err != nil {
						if AsError(err).Reason != ReasonInternal {
							t.Errorf("Select: %v", err)
						}
						return
					}
					if got := v.Reveal(); got != want {
						t.Errorf("a reader got %d bytes, want %d; %d of them zeros", len(got), len(want), strings.Count(got, "\x00"))
						return
					}
					v.Wipe()
				}
			})
		}
		if round%2 == 0 {
			checkSelect(t, s, "k", text, "") // parsed
		}
		s.Release()
		readers.Wait()
		if !wiped(doc) {
			t.Fatal("not wiped after the last reader")
		}
	}
}

// The caller owns the result of Select: wiping it affects no other value.
func TestSelectCopies(t *testing.T) {
	s := document(`{"s":"v\u0041l","n":12,"o":{"a": [1, "x"]}}`)
	for _, key := range []string{"s", "n", "o", ""} {
		first, err := s.Select(key)
		if err != nil {
			t.Fatal(err)
		}
		second, _ := s.Select(key)
		want := first.Reveal()
		first.Wipe()
		if got := second.Reveal(); got != want {
			t.Errorf("%q: %q after another caller's was wiped, want %q", key, got, want)
		}
		s.Retain()
		s.Release()
		checkSelect(t, s, key, want, "")
	}
	v, _ := s.Select("o")
	s.Release()
	if got := v.Reveal(); got != `{"a":[1,"x"]}` {
		t.Errorf("the value went with the Secret: %q", got)
	}
}

// A buffer that append has replaced stays in memory without being wiped.
func TestSelectFitsItsBuffer(t *testing.T) {
	for key, raw := range map[string]string{
		"plain": `"v"`, "escapes": `"\u00e9\ud83d\ude00\n\"` + strings.Repeat(`\u2028`, 100) + `"`, "number": "-1.5e300",
		"object": `{ "a" : [ ` + strings.Repeat(`"x" , `, 100) + ` 1 ] }`, "text": `"` + strings.Repeat("é", 500) + `"`,
	} {
		s := document(`{"` + key + `":` + raw + `}`)
		v, err := s.Select(key)
		if err != nil {
			t.Fatal(err)
		}
		if is, most := cap(v.open()), len(raw); is > most {
			t.Errorf("%s: a buffer of %d bytes, %d would do", key, is, most)
		}
		v.close()
	}
}

func TestValueWipe(t *testing.T) {
	b := []byte(planted)
	v := NewValue(b)
	same := v
	v.Wipe()
	if !wiped(b) {
		t.Errorf("what is left: %q", b)
	}
	same.Wipe()
	for name, use := range map[string]func(){
		"Reveal":      func() { same.Reveal() },
		"RevealBytes": func() { same.RevealBytes() },
		"IsText":      func() { same.IsText() },
		"Len":         func() { same.Len() },
		"Apply":       func() { _, _ = DecodeBase64.Apply(same) },
	} {
		if panics(use) == nil {
			t.Errorf("%s of a wiped value goes unnoticed", name)
		}
	}
	if same.String() != redacted {
		t.Error("a wiped value prints differently")
	}
	Value{}.Wipe()
	if (Value{}).Reveal() != "" {
		t.Error("the zero Value can be wiped")
	}
}

func TestDecodingTakesTheValueOver(t *testing.T) {
	for _, text := range []string{"cGxhbnRlZA==", "cGxhbnRl!"} {
		b := []byte(text)
		if _, err := DecodeBase64.Apply(NewValue(b)); (err != nil) != strings.Contains(text, "!") {
			t.Errorf("Apply: %v", err)
		}
		if !wiped(b) {
			t.Errorf("what is left: %q", b)
		}
	}
	v, err := Decoding("").Apply(NewValue([]byte("as it stands")))
	if err != nil || v.Reveal() != "as it stands" {
		t.Errorf("a value that was not to be decoded: %q, %v", v.Reveal(), err)
	}
}
