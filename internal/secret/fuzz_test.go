package secret

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzParseRef(f *testing.F) {
	for _, tt := range acceptedRefs {
		f.Add(tt.in)
	}
	for _, tt := range rejectedRefs {
		if len(tt.in) < 2*MaxRefLen {
			f.Add(tt.in)
		}
	}
	for _, tt := range rejectedVaults {
		f.Add(tt.in + "::db#" + hex32 + "::key")
	}
	for _, in := range append(slices.Collect(maps.Keys(rejectedOthers)), acceptedOthers...) {
		f.Add(in)
	}
	known := knownRejections()
	f.Fuzz(func(t *testing.T, in string) {
		r, err := ParseRef(in)
		if err != nil {
			// Other kinds have more texts, which do not depend on the input either.
			text := rejection(t, err)
			if r != (Ref{}) || !known[text] && strings.HasSuffix(text, refExample) || !strings.HasPrefix(text, "not a reference: ") {
				t.Fatalf("ParseRef(%q) = %+v, %q: a text that the tables do not know", in, r, text)
			}
			return
		}
		checkCanonical(t, r)
		if r.IsString(in) != (r.String() == in) || !r.IsString(r.String()) || r.IsString(r.String()+"x") || r.IsString("") {
			t.Errorf("IsString of %+v and %q is wrong", r, in)
		}
		store, err := r.Kind.ParseStore(r.Store)
		if err != nil || store != r.Store || r.Name == "" || !r.Kind.ValidNamePart(r.Name) || r.Kind.FoldName(r.Name) != r.Name || !utf8.ValidString(r.Key) {
			t.Errorf("ParseRef(%q) = %+v is not canonical", in, r)
		}
		if strings.Contains("/"+r.Name+"/", "/../") || strings.ContainsAny(r.Name, "?#%\\*") {
			t.Errorf("ParseRef(%q) has the name %q", in, r.Name)
		}
		if r.Version != "" && r.Decoding != "" {
			other := strings.Replace(r.String(), "#"+r.Version+"?decode="+string(r.Decoding), "?decode="+string(r.Decoding)+"#"+r.Version, 1)
			if same, err := ParseRef(other); err != nil || same != r {
				t.Errorf("ParseRef(%q) = %+v, %v, want %+v", other, same, err, r)
			}
		}
		if r.Kind == KindAzureKeyVault {
			checkVault(t, r.Store)
			if strings.Trim(r.Name, "0123456789abcdefghijklmnopqrstuvwxyz-") != "" || r.Version != lower(r.Version) {
				t.Errorf("ParseRef(%q) has the name %q", in, r.Name)
			}
		}
	})
}

func FuzzParseAzureVault(f *testing.F) {
	for _, tt := range rejectedVaults {
		f.Add(tt.in)
	}
	f.Add("https://abc.vault.azure.net:443/")
	f.Add("HTTPS://A-B-C.vault.USGOVCLOUDAPI.net")
	known := knownRejections()
	f.Fuzz(func(t *testing.T, in string) {
		vault, err := ParseAzureVault(in)
		if err != nil {
			if text := rejection(t, err); !known[text] || vault != "" {
				t.Fatalf("ParseAzureVault(%q) = %q, %q: a text that the tables do not know", in, vault, text)
			}
			return
		}
		checkVault(t, vault)
	})
}

// checkVault checks that the broker may send a token to vault.
func checkVault(t *testing.T, vault string) {
	t.Helper()
	if again, err := ParseAzureVault(vault); err != nil || again != vault {
		t.Errorf("ParseAzureVault of the canonical %q = %q, %v", vault, again, err)
	}
	cloud, ok := AzureCloudOf(vault)
	if !ok {
		t.Fatalf("%q is in no cloud", vault)
	}
	name, isHTTPS := strings.CutPrefix(strings.TrimSuffix(vault, cloud.VaultSuffix), "https://")
	if !isHTTPS || strings.Trim(name, "0123456789abcdefghijklmnopqrstuvwxyz-") != "" || len(name) < 3 || len(name) > 24 {
		t.Errorf("%q is no vault's URL", vault)
	}
}

func FuzzSelect(f *testing.F) {
	for _, seed := range []struct{ doc, key string }{
		{`{"k":"v"}`, "k"},
		{"\xef\xbb\xbf{ \"a.b\" : [1, {\"c\" : null}] , \"n\" : null}", "a.b"},
		{`{"k":"v","\u006b":"w"}`, "k"},
		{`{"k":"\\ufffd\ud800"}`, "k"},
		{`{"k":"\\\ufffd","\ud83d\ude00":-1.50e+3}`, "😀"},
		{`{"k":true,"l":false,"m":{}} x`, "m"},
		{"{\"k\":\"\xff\"}", "k"},
		{`hunter2`, "k"},
	} {
		f.Add([]byte(seed.doc), seed.key)
	}
	f.Fuzz(func(t *testing.T, doc []byte, key string) {
		v, err := document(string(doc)).Select(key)
		want, reason := selectByOracle(doc, key)
		if err != nil {
			if got := AsError(err).Reason; got != reason {
				t.Fatalf("Select(%q) of %q: %s, want %q, %s", key, doc, got, want, reason)
			}
			return
		}
		if reason != "" || v.Reveal() != want {
			t.Fatalf("Select(%q) of %q = %q, want %q, %s", key, doc, v.Reveal(), want, reason)
		}
	})
}

// selectByOracle returns the expected result of Select, computed with encoding/json
// and a map.
func selectByOracle(doc []byte, key string) (string, Reason) {
	if key == "" {
		if !utf8.Valid(doc) {
			return "", ReasonSecretNotJSON
		}
		return string(doc), ""
	}
	doc = bytes.TrimPrefix(doc, []byte("\xef\xbb\xbf"))
	var members map[string]json.RawMessage
	if !utf8.Valid(doc) || json.Unmarshal(doc, &members) != nil || members == nil {
		return "", ReasonSecretNotJSON
	}
	var texts, keys int
	for _, m := range topLevel(doc) {
		if halfPair(m.key) || m.value[0] == '"' && halfPair(m.value) {
			texts++
		}
		keys++
	}
	if texts > 0 || keys != len(members) {
		return "", ReasonSecretNotJSON
	}
	raw, ok := members[key]
	if !ok || string(raw) == "null" {
		return "", ReasonJSONKeyNotFound
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text, ""
	}
	var compact bytes.Buffer
	if json.Compact(&compact, raw) != nil {
		return "", ReasonSecretNotJSON
	}
	return compact.String(), ""
}

type member struct{ key, value string }

// topLevel splits a valid JSON object into its members, as they are written.
func topLevel(doc []byte) (members []member) {
	var depth, start int
	var key string
	inString, escaped := false, false
	for i, c := range doc {
		switch {
		case inString:
			switch {
			case escaped:
				escaped = false
			case c == '\\':
				escaped = true
			case c == '"':
				inString = false
			}
		case c == '"':
			inString = true
		case c == '{' || c == '[':
			if depth++; depth == 1 {
				start = i + 1
			}
		case c == ':' && depth == 1:
			key, start = strings.TrimSpace(string(doc[start:i])), i+1
		case c == ',' && depth == 1, (c == '}' || c == ']') && depth == 1:
			if value := strings.TrimSpace(string(doc[start:i])); value != "" {
				members = append(members, member{key, value})
			}
			start = i + 1
			if c != ',' {
				depth--
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return members
}

// halfPair reports whether a JSON string contains an escaped surrogate that is not
// part of a pair.
func halfPair(raw string) bool {
	first := false // the escape just read is the first half of a pair
	for i := 0; i < len(raw); {
		if raw[i] != '\\' {
			if first {
				return true
			}
			i++
			continue
		}
		var unit uint64
		if raw[i+1] == 'u' {
			unit, _ = strconv.ParseUint(raw[i+2:i+6], 16, 32)
			i += 4
		}
		i += 2
		second := 0xDC00 <= unit && unit < 0xE000
		if first != second {
			return true
		}
		first = 0xD800 <= unit && unit < 0xDC00
	}
	return first
}
