package secret

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

func document(text string) *Secret {
	return New("v1", time.Unix(1, 0), time.Time{}, []byte(text))
}

// checkSelect compares the result of Select with want, or with a reason.
func checkSelect(t *testing.T, s *Secret, key, want string, reason Reason) {
	t.Helper()
	v, err := s.Select(key)
	if reason != "" {
		if v.Len() != 0 {
			t.Errorf("Select(%q) gave a value with an error", key)
		}
		if err == nil || AsError(err).Reason != reason {
			t.Errorf("Select(%q) = %q, %v, want %s", key, v.Reveal(), err, reason)
		}
		return
	}
	if err != nil || v.Reveal() != want {
		t.Errorf("Select(%q) = %q, %v, want %q", key, v.Reveal(), err, want)
	}
}

func TestNew(t *testing.T) {
	fetched, expires := time.Unix(10, 0), time.Unix(20, 0)
	s := New("v7", fetched, expires, []byte("four"))
	if s.Version != "v7" || !s.FetchedAt.Equal(fetched) || !s.ExpiresAt.Equal(expires) || s.Size() != 4 {
		t.Errorf("New = %+v, size %d", s, s.Size())
	}
}

func TestSelectWholeSecret(t *testing.T) {
	for name, text := range map[string]string{
		"empty":            "",
		"password":         "p@ss::word \n",
		"JSON":             ` {"a": 1} `,
		"broken JSON":      `{"a":`,
		"duplicate keys":   `{"a":1,"a":2}`,
		"byte order mark":  "\xef\xbb\xbfx",
		"beyond ASCII":     "пароль\u2028",
		"genuine U+FFFD":   "\uFFFD",
		"control text":     "a\x00b\x1b",
		"connector's text": strings.Repeat("k=v\n", 1<<16),
	} {
		t.Run(name, func(t *testing.T) { checkSelect(t, document(text), "", text, "") })
	}
	t.Run("not text", func(t *testing.T) { checkSelect(t, document("\xff\xfe"), "", "//4=", "") })
}

func TestSelectMember(t *testing.T) {
	for _, tt := range []struct{ name, doc, key, want string }{
		{"string", `{"k":"v"}`, "k", "v"},
		{"empty string", `{"k":""}`, "k", ""},
		{"string with escapes", `{"k":"a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00"}`, "k", "a\"\\/\b\f\n\r\té😀"},
		{"string with NUL", `{"k":"a\u0000b"}`, "k", "a\x00b"},
		{"string that looks like JSON", `{"k":"{\"a\": null}"}`, "k", `{"a": null}`},
		{"string that says null", `{"k":"null"}`, "k", "null"},
		{"string with HTML", `{"k":"<&>"}`, "k", "<&>"},
		{"integer", `{"k": 5432 }`, "k", "5432"},
		{"number beyond float64", `{"k":12345678901234567890.10}`, "k", "12345678901234567890.10"},
		{"number as it is written", `{"k":-0.0e+10}`, "k", "-0.0e+10"},
		{"true", `{"k": true }`, "k", "true"},
		{"false", `{"k":false}`, "k", "false"},
		{"object", `{"k": { "a" : [ 1 , "b c" ] , "d" : null } }`, "k", `{"a":[1,"b c"],"d":null}`},
		{"object as it is written", `{"k":{"z":1,"a":1.0,"h":"<&>\u003c\u2028` + "\u2028" + `"}}`, "k", `{"z":1,"a":1.0,"h":"<&>\u003c\u2028` + "\u2028" + `"}`},
		{"array", "{\"k\":[ 1,\n\t2 ]}", "k", "[1,2]"},
		{"empty array", `{"k":[ ]}`, "k", "[]"},
		{"duplicate below the top", `{"k":{"a":1,"a":2}}`, "k", `{"a":1,"a":2}`},
		{"dotted key", `{"a":{"b":"nested"},"a.b":"literal"}`, "a.b", "literal"},
		{"key with ::", `{"a::b":"v"}`, "a::b", "v"},
		{"escaped key", `{"\u006b":"v"}`, "k", "v"},
		{"key beyond ASCII", `{"ключ":"v"}`, "ключ", "v"},
		{"case of a key", `{"k":"lower","K":"upper"}`, "K", "upper"},
		{"Kelvin sign is no k", `{"` + "\u212a" + `":"kelvin","k":"k"}`, "k", "k"},
		{"beside an empty key", `{"":"empty","k":"v"}`, "k", "v"},
		{"beside null", `{"n":null,"k":"v"}`, "k", "v"},
		{"byte order mark", "\xef\xbb\xbf{\"k\":\"v\"}", "k", "v"},
		{"white space around", " \r\n\t{ \"k\" : \"v\" } \r\n\t", "k", "v"},
		{"genuine U+FFFD", `{"k":"` + "\uFFFD" + `"}`, "k", "\uFFFD"},
		{"escaped U+FFFD", `{"k":"\ufffd\uFFFD"}`, "k", "\uFFFD\uFFFD"},
		{"genuine U+FFFD in a key", `{"` + "\uFFFD" + `":"v"}`, "\uFFFD", "v"},
		{"backslash before ufffd", `{"k":"\\ufffd"}`, "k", `\ufffd`},
		{"both kinds of ufffd", `{"k":"\\ufffd\ufffd"}`, "k", `\ufffd` + "\uFFFD"},
		{"three backslashes", `{"k":"\\\ufffd"}`, "k", `\` + "\uFFFD"},
		{"half a pair below the top stays as written", `{"k":["\ud800"]}`, "k", `["\ud800"]`},
	} {
		t.Run(tt.name, func(t *testing.T) { checkSelect(t, document(tt.doc), tt.key, tt.want, "") })
	}
}

func TestSelectRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, doc, key string
		reason         Reason
	}{
		{"absent key", `{"k":"v"}`, "x", ReasonJSONKeyNotFound},
		{"empty object", `{}`, "k", ReasonJSONKeyNotFound},
		{"null", `{"k":null}`, "k", ReasonJSONKeyNotFound},
		{"null amid white space", "{\"k\": null\n}", "k", ReasonJSONKeyNotFound},
		{"nested key by dots", `{"a":{"b":"v"}}`, "a.b", ReasonJSONKeyNotFound},
		{"other case", `{"k":"v"}`, "K", ReasonJSONKeyNotFound},
		{"Kelvin sign", `{"k":"v"}`, "\u212a", ReasonJSONKeyNotFound},
		{"key with a space", `{"k":"v"}`, "k ", ReasonJSONKeyNotFound},
		{"escaped text of a key", `{"\u006b":"v"}`, `\u006b`, ReasonJSONKeyNotFound},
		{"empty document", ``, "k", ReasonSecretNotJSON},
		{"white space", " \n", "k", ReasonSecretNotJSON},
		{"byte order mark alone", "\xef\xbb\xbf", "k", ReasonSecretNotJSON},
		{"two byte order marks", "\xef\xbb\xbf\xef\xbb\xbf{}", "k", ReasonSecretNotJSON},
		{"plain password", `hunter2`, "k", ReasonSecretNotJSON},
		{"string", `"k"`, "k", ReasonSecretNotJSON},
		{"array", `[{"k":"v"}]`, "k", ReasonSecretNotJSON},
		{"null document", `null`, "k", ReasonSecretNotJSON},
		{"number", `1`, "k", ReasonSecretNotJSON},
		{"YAML", "k: v", "k", ReasonSecretNotJSON},
		{"cut short", `{"k":"v"`, "k", ReasonSecretNotJSON},
		{"cut in a value", `{"k":"v`, "k", ReasonSecretNotJSON},
		{"cut after a key", `{"k"`, "k", ReasonSecretNotJSON},
		{"trailing brace", `{"k":"v"}}`, "k", ReasonSecretNotJSON},
		{"trailing document", `{"k":"v"}{"k":"w"}`, "k", ReasonSecretNotJSON},
		{"trailing NUL", "{\"k\":\"v\"}\x00", "k", ReasonSecretNotJSON},
		{"trailing comma", `{"k":"v",}`, "k", ReasonSecretNotJSON},
		{"leading comma", `{,"k":"v"}`, "k", ReasonSecretNotJSON},
		{"no colon", `{"k" "v"}`, "k", ReasonSecretNotJSON},
		{"no comma", `{"k":"v" "l":"w"}`, "k", ReasonSecretNotJSON},
		{"closed by a bracket", `{"k":"v"]`, "k", ReasonSecretNotJSON},
		{"number for a key", `{1:"v","k":"v"}`, "k", ReasonSecretNotJSON},
		{"bare key", `{k:"v"}`, "k", ReasonSecretNotJSON},
		{"single quotes", `{'k':'v'}`, "k", ReasonSecretNotJSON},
		{"comment", `{"k":"v"/**/}`, "k", ReasonSecretNotJSON},
		{"hexadecimal", `{"k":0x10}`, "k", ReasonSecretNotJSON},
		{"number with a zero first", `{"k":007}`, "k", ReasonSecretNotJSON},
		{"NaN", `{"k":NaN}`, "k", ReasonSecretNotJSON},
		{"line feed in a string", "{\"k\":\"a\nb\"}", "k", ReasonSecretNotJSON},
		{"bad escape", `{"k":"\x41"}`, "k", ReasonSecretNotJSON},
		{"duplicate key", `{"k":"v","k":"w"}`, "k", ReasonSecretNotJSON},
		{"another duplicate key", `{"k":"v","d":1,"d":1}`, "k", ReasonSecretNotJSON},
		{"duplicate by escape", `{"k":"v","\u006b":"w"}`, "k", ReasonSecretNotJSON},
		{"duplicate after null", `{"k":null,"k":"v"}`, "k", ReasonSecretNotJSON},
		{"duplicate before null", `{"k":"v","k":null}`, "k", ReasonSecretNotJSON},
		{"not UTF-8", "{\"k\":\"\xff\"}", "k", ReasonSecretNotJSON},
		{"not UTF-8 in another member", "{\"k\":\"v\",\"l\":\"\xff\"}", "k", ReasonSecretNotJSON},
		{"UTF-16", "\xff\xfe{\x00}\x00", "k", ReasonSecretNotJSON},
		{"first half of a pair", `{"k":"\ud83d"}`, "k", ReasonSecretNotJSON},
		{"second half of a pair", `{"k":"a\ude00"}`, "k", ReasonSecretNotJSON},
		{"pair the wrong way round", `{"k":"\ude00\ud83d"}`, "k", ReasonSecretNotJSON},
		{"half a pair in a key", `{"k":"v","\ud800":"w"}`, "k", ReasonSecretNotJSON},
		{"half a pair beside a backslash and ufffd", `{"k":"\\ufffd\ud800"}`, "k", ReasonSecretNotJSON},
		{"half a pair in a key beside one", `{"\\ufffd\udfff":"v","k":"v"}`, "k", ReasonSecretNotJSON},
		{"nested without end", strings.Repeat(`{"k":`, 100_000), "k", ReasonSecretNotJSON},
		{"nested too deep", `{"k":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`, "k", ReasonSecretNotJSON},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := document(tt.doc)
			checkSelect(t, s, tt.key, "", tt.reason)
			checkSelect(t, s, tt.key, "", tt.reason) // the second answer comes from the parsed document
		})
	}
}

func TestSelectErrorsQuoteNothing(t *testing.T) {
	const canary = "qXzJ7wQkVb"
	for _, doc := range []string{
		canary, `{"` + canary + `":"` + canary + `"}`, `{"` + canary + `":1,"` + canary + `":2}`, `{"k":` + canary + `}`,
		`{"k":"` + canary + `"} ` + canary, `{"k":"` + canary + `\ud800"}`, `["` + canary + `"]`, `{"k":"` + canary + `","` + canary, "\xff" + canary,
	} {
		for _, key := range []string{"", "k" + canary, "absent"} {
			_, err := document(doc).Select(key)
			if err == nil {
				continue
			}
			if shown := fmt.Sprintf("%v %+v %#v", err, err, AsError(err).Message); strings.Contains(shown, canary[:4]) {
				t.Errorf("Select(%q) of %q shows the document: %s", key, doc, shown)
			}
		}
	}
}

func TestSelectHugeDocument(t *testing.T) {
	var b strings.Builder
	b.WriteString("{")
	for i := range 20_000 {
		fmt.Fprintf(&b, `"key-%d":"value-%d",`, i, i)
	}
	fmt.Fprintf(&b, `"long":%q}`, strings.Repeat("x", 1<<20))
	s := document(b.String())
	checkSelect(t, s, "key-19999", "value-19999", "")
	checkSelect(t, s, "long", strings.Repeat("x", 1<<20), "")
	checkSelect(t, s, "key-20000", "", ReasonJSONKeyNotFound)
}

// All callers that one read answers share a Secret.
func TestSelectConcurrently(t *testing.T) {
	good := document(`{"a":"1","b":{"c": 2}}`)
	bad := document(`{"a":"1","a":"2"}`)
	var callers sync.WaitGroup
	for range 16 {
		callers.Go(func() {
			for range 100 {
				checkSelect(t, good, "a", "1", "")
				checkSelect(t, good, "b", `{"c":2}`, "")
				checkSelect(t, good, "c", "", ReasonJSONKeyNotFound)
				checkSelect(t, good, "", `{"a":"1","b":{"c": 2}}`, "")
				checkSelect(t, bad, "a", "", ReasonSecretNotJSON)
			}
		})
	}
	callers.Wait()
}

func BenchmarkSelect(b *testing.B) {
	s := document(`{"username":"app","password":"correct horse battery staple","port":1433}`)
	for name, key := range map[string]string{"member": "password", "whole": ""} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				v, err := s.Select(key)
				if err != nil {
					b.Fatal(err)
				}
				v.Wipe()
			}
		})
	}
}
