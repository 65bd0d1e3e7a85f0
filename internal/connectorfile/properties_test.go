package connectorfile

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"
	"unicode/utf8"
)

// The parser agrees with java.util.Properties.
func TestProperties(t *testing.T) {
	tests := []struct {
		name, text string
		want       map[string]string
		lines      map[string]int
	}{
		{"separators", "a=1\nb:2\nc 3\nd\t=\t4\ne = = 5\nf::6\ng\n", map[string]string{"a": "1", "b": "2", "c": "3", "d": "4", "e": "= 5", "f": ":6", "g": ""}, nil},
		{"reference", "p=https://v.vault.azure.net::s#0123456789abcdef0123456789abcdef?decode=base64::k=v:w", map[string]string{"p": "https://v.vault.azure.net::s#0123456789abcdef0123456789abcdef?decode=base64::k=v:w"}, nil},
		{"reference with escaped colons", `p=https\://v.vault.azure.net\:\:s`, map[string]string{"p": "https://v.vault.azure.net::s"}, nil},
		{"escaped separators in a key", `a\=b\:c\ d=1`, map[string]string{"a=b:c d": "1"}, nil},
		{"comments and empty lines", "# one\n\n  ! two \\\na=1\n \t\f\n#b=2\n", map[string]string{"a": "1"}, map[string]int{"a": 4}},
		{"comment is not continued", "#x\\\na=1", map[string]string{"a": "1"}, map[string]int{"a": 2}},
		{"sign of a comment in a value", "a=#1\nb=x # y", map[string]string{"a": "#1", "b": "x # y"}, nil},
		{"continued", "a=1,\\\n   2,\\\n\t3\nb=4", map[string]string{"a": "1,2,3", "b": "4"}, map[string]int{"a": 1, "b": 4}},
		{"continued over CR LF", "a=1,\\\r\n   2\r\nb=4\r\n", map[string]string{"a": "1,2", "b": "4"}, map[string]int{"a": 1, "b": 3}},
		{"continued key", "a\\\n  b=1", map[string]string{"ab": "1"}, nil},
		{"continued by an empty line", "a=1\\\n\nb=2", map[string]string{"a": "1", "b": "2"}, map[string]int{"a": 1, "b": 3}},
		{"continued by what would be a comment", "a=1\\\n#2", map[string]string{"a": "1#2"}, nil},
		{"nothing but a continuation", "\\\n  a=1", map[string]string{"a": "1"}, map[string]int{"a": 2}},
		{"two backslashes end a line", "a=1\\\\\nb=2", map[string]string{"a": `1\`, "b": "2"}, nil},
		{"three backslashes go on", "a=1\\\\\\\nb=2", map[string]string{"a": `1\b=2`}, nil},
		{"CR alone", "a=1\rb=2", map[string]string{"a": "1", "b": "2"}, map[string]int{"a": 1, "b": 2}},
		{"escapes", `a=\t\n\f\r\\\x\"A\u00e9`, map[string]string{"a": "\t\n\f\r\\x\"A\u00e9"}, nil},
		{"surrogate pair", `a=\ud83D\uDE00`, map[string]string{"a": "\U0001F600"}, nil},
		{"spaces at the end stay", "a=1  \nb=2\t", map[string]string{"a": "1  ", "b": "2\t"}, nil},
		{"Kafka's placeholders", "a=${file:/opt/secrets.properties:p}\nb=${a}", map[string]string{"a": "${file:/opt/secrets.properties:p}", "b": "${a}"}, nil},
		{"other text in a comment", "# gr\u00fc\u00dfe \xff\na=1", map[string]string{"a": "1"}, nil},
		{"empty", "", map[string]string{}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := parseOne("connector.properties", []byte(tt.text))
			if err != nil || !maps.Equal(c.Configs, tt.want) {
				t.Errorf("got %q, %v, want %q", c.Configs, err, tt.want)
			}
			if tt.lines != nil && !maps.Equal(c.Lines, tt.lines) {
				t.Errorf("lines are %v, want %v", c.Lines, tt.lines)
			}
		})
	}
}

func TestPropertiesRefused(t *testing.T) {
	tests := []struct {
		name, text string
		fault      string
		line       int
	}{
		{"twice", "a=canary\n#\na=canary", `"a" occurs twice, first on line 1`, 3},
		{"twice in another spelling", "a=canary\n\\u0061:canary", `"a" occurs twice`, 2},
		{"no name", "a=1\n=canary", "without a name", 2},
		{"no name but a colon", " : canary", "without a name", 1},
		{"short unicode escape", "a=canary\\u12", "four hexadecimal digits", 1},
		{"unicode escape with other digits", "\na=canary\\u+123", "four hexadecimal digits", 2},
		{"half a surrogate pair", "a=canary\\ud83d", "surrogate", 1},
		{"surrogates in the wrong order", `a=canary\ude00\ud83d`, "surrogate", 1},
		{"surrogate and another escape", `a=canary\ud83d\u0041`, "surrogate", 1},
		{"surrogate and too few digits", `a=canary\ud83d\ude`, "surrogate", 1},
		{"bad escape in a key", `a\u00zz=canary`, "four hexadecimal digits", 1},
		{"cut off", "a=canary\\", "may be truncated", 1},
		{"cut off after a line break", "a=canary\\\n", "may be truncated", 1},
		{"UTF-8", "a=1\nb=canary\u00fc", "outside ASCII", 2},
		{"ISO-8859-1", "a=canary\xfc", "outside ASCII", 1},
		{"UTF-8 on a continued line", "a=canary,\\\n  \u00fc", "outside ASCII", 2},
		{"byte order mark", "\ufeffa=canary", "byte order mark", 1},
		{"JSON", " \n{\"a\":\"canary\"}", "JSON", 1},
		{"too large", strings.Repeat("x", MaxSize+1), "the maximum", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("connector.properties", []byte(tt.text))
			e, ok := errors.AsType[*Error](err)
			if !ok || !strings.Contains(e.Text, tt.fault) || e.Line != tt.line {
				t.Errorf("got %v, want %q on line %d", err, tt.fault, tt.line)
			}
			if err != nil && strings.Contains(err.Error(), "canary") {
				t.Errorf("%q quotes a value", err)
			}
		})
	}
}

// Properties that are written in the way Java stores them are read back unchanged.
func FuzzPropertiesRoundTrip(f *testing.F) {
	f.Add("database.password", "https://v.vault.azure.net::s::k", "b", "")
	f.Add(" a=b:c#", " x\\\n\r\t\f", "!", "\U0001F600\x00\u0085")
	f.Fuzz(func(t *testing.T, key1, value1, key2, value2 string) {
		if key1 == key2 || key1 == "" || key2 == "" || inQuotes(key1) || inQuotes(key2) || !utf8.ValidString(strings.Join([]string{key1, value1, key2, value2}, " ")) {
			return
		}
		text := "# comment\n" + escaped(key1) + "=" + escaped(value1) + "\r\n" + escaped(key2) + ":" + escaped(value2)
		c, err := parseOne("x.properties", []byte(text))
		want := map[string]string{key1: value1, key2: value2}
		line := 3 + strings.Count(key1+value1, "\n")
		if err != nil || !maps.Equal(c.Configs, want) || c.Lines[key1] != 2 || c.Lines[key2] != line {
			t.Errorf("%q: got %q on %v, %v", text, c.Configs, c.Lines, err)
		}
	})
}

// escaped escapes all characters except letters and digits.
func escaped(s string) string {
	var b strings.Builder
	for _, unit := range utf16.Encode([]rune(s)) {
		switch {
		case unit == '\n':
			b.WriteString("\\n\\\n   ") // also tests continued lines
		case 'a' <= unit && unit <= 'z' && unit != 'u' && unit != 't' && unit != 'n' && unit != 'f' && unit != 'r':
			b.WriteByte(byte(unit))
		case unit > 0x20 && unit < 0x7f && (unit < '0' || unit > 'z'):
			b.WriteByte('\\')
			b.WriteByte(byte(unit))
		default:
			fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	return b.String()
}

// inQuotes reports whether parseProperties rejects a name because of its quotation mark.
func inQuotes(name string) bool { return strings.IndexAny(name, `"'`) == 0 }

func FuzzProperties(f *testing.F) {
	f.Add([]byte("a=1\\\n 2\n#\nb:\\u0041\r\n"))
	f.Add([]byte("\\\n\\"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseOne("x.properties", data)
		if err != nil {
			if e, ok := errors.AsType[*Error](err); !ok || e.Line > 1+strings.Count(string(data), "\n")+strings.Count(string(data), "\r") {
				t.Errorf("the error is %v", err)
			}
			return
		}
		checkLines(t, c, data)
		for name, value := range c.Configs {
			if !utf8.ValidString(name) || !utf8.ValidString(value) {
				t.Errorf("%q has text that is not valid: %q", name, value)
			}
		}
	})
}

// checkLines expects that each property is on its own line of data.
func checkLines(t *testing.T, c Connector, data []byte) {
	t.Helper()
	if len(c.Lines) != len(c.Configs) {
		t.Errorf("%d lines for %d properties", len(c.Lines), len(c.Configs))
	}
	most := 1 + strings.Count(string(data), "\n") + strings.Count(string(data), "\r")
	for name, line := range c.Lines {
		if _, ok := c.Configs[name]; !ok || line < 1 || line > most {
			t.Errorf("%q stands on line %d of %d", name, line, most)
		}
	}
}

// FuzzParseSecrets: for ASCII without names in quotation marks, both parsers of properties agree; beyond ASCII the values
// are valid UTF-8.
func FuzzParseSecrets(f *testing.F) {
	f.Add([]byte("a=1\\\n 2\n#\nb:\\u0041\r\n"))
	f.Add([]byte("pä=ö\n"))
	f.Add([]byte("0\n\"00"))
	f.Add([]byte("\xef\xbb\xbfa=\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := ParseSecrets(data)
		for name, value := range got {
			if !utf8.ValidString(name) || !utf8.ValidString(value) {
				t.Errorf("%q has text that is not valid: %q", name, value)
			}
		}
		if !isASCII(string(data)) || slices.ContainsFunc(slices.Collect(maps.Keys(got)), inQuotes) {
			return
		}
		want, wantErr := parseProperties(data)
		if (err == nil) != (wantErr == nil) || !maps.Equal(got, want.Configs) {
			t.Errorf("%q, %v; want %q, %v", got, err, want.Configs, wantErr)
		}
	})
}
