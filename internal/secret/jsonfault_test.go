package secret

import (
	"strings"
	"testing"
	"time"
)

// json-where: the error says where and how a document is not JSON, and quotes nothing.
func TestSyntaxFault(t *testing.T) {
	for name, tt := range map[string]struct{ doc, says string }{
		"line break in a string": {"{\n\"k\": \"canary\ncanary\"}", "line 2, byte 15: a line break or another control character"},
		"trailing comma":         {"{\"k\": \"canary\",\n }", "line 2, byte 18: a comma before the closing bracket"},
		"comment":                {"{\"k\": 1, // canary\n}", "line 1, byte 10: a comment"},
		"comment before it":      {"\n// canary\n{}", "line 2, byte 2: a comment"},
		"path":                   {"/etc/canary", "is not a JSON object"},
		"hash":                   {"{# canary\n}", "line 1, byte 2: a comment"},
		"single quotes":          {"{'canary': 1}", "line 1, byte 2: a single quote"},
		"cut off":                {"{\"k\": \"canary", "ends too early"},
		"cut off after a comma":  {"{\"k\": 1,", "ends too early"},
		"two values":             {"{\"k\": canary}", "line 1, byte 7: a syntax error"},
		"more after it":          {"{} canary", "line 1, byte 4: a syntax error"},
		"after a mark":           {"\xef\xbb\xbf{\"k\":}", "line 1, byte 9: a syntax error"},
		"encoded twice":          {`"{\"k\":\"canary\"}"`, "encoded twice"},
		"plain text":             {"canary", "is not a JSON object"},
		"list":                   {"[1]", "is not a JSON object"},
	} {
		s := New("v", time.Time{}, time.Time{}, []byte(tt.doc))
		_, err := s.Select("k")
		if e := AsError(err); e.Reason != ReasonSecretNotJSON || !strings.Contains(e.Message, tt.says) || strings.Contains(e.Message, "canary") {
			t.Errorf("%s: %v, want %q", name, err, tt.says)
		}
	}
}

// ends: an invisible character at the end of a JSON key is named.
func TestInvisibleEnds(t *testing.T) {
	for in, want := range map[string]string{
		"password": "", "": "", "pass word": "", "password ": "ends with a space (U+0020)", "\tpassword": "begins with a tab (U+0009)",
		"password\u00a0": "ends with a no-break space (U+00A0)", "\u200bx": "begins with a zero width space (U+200B)",
		"x\ufeff": "ends with a byte order mark (U+FEFF)", "x\u2028": "ends with an invisible character (U+2028)",
		"x\r": "ends with a carriage return (U+000D)", "p\xe4": "",
	} {
		if got := InvisibleEnds(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	s := New("v", time.Time{}, time.Time{}, []byte(`{"password":"canary"}`))
	_, err := s.Select("password ")
	if e := AsError(err); e.Reason != ReasonJSONKeyNotFound || !strings.Contains(e.Message, "ends with a space (U+0020)") {
		t.Error(err)
	}
}
