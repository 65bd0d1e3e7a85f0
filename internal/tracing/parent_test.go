package tracing

import (
	"encoding/hex"
	"regexp"
	"strings"
	"testing"
)

const (
	traceText = "4bf92f3577b34da6a3ce929d0e0e4736"
	spanText  = "00f067aa0ba902b7"
	sampled   = "00-" + traceText + "-" + spanText + "-01"
	unsampled = "00-" + traceText + "-" + spanText + "-00"
)

func TestParseParent(t *testing.T) {
	const none = "none"
	for text, want := range map[string]string{
		sampled:   "sampled",
		unsampled: "unsampled",
		"00-" + traceText + "-" + spanText + "-03":      "sampled", // random trace id
		"00-" + traceText + "-" + spanText + "-02":      "unsampled",
		"00-" + traceText + "-" + spanText + "-ff":      "sampled",
		"01-" + traceText + "-" + spanText + "-01":      "sampled", // the known part of later versions
		"fe-" + traceText + "-" + spanText + "-01-more": "sampled",
		"cc-" + traceText + "-" + spanText + "-01.more": none,
		"ff-" + traceText + "-" + spanText + "-01":      none,
		sampled + "-more":        none,
		sampled + " ":            none,
		" " + sampled:            none,
		sampled[:54]:             none,
		"":                       none,
		strings.ToUpper(sampled): none,
		"00-" + traceText + "-" + "00F067AA0BA902B7-01":                             none,
		"00-" + strings.Repeat("0", 32) + "-" + spanText + "-01":                    none,
		"00-" + traceText + "-" + strings.Repeat("0", 16) + "-01":                   none,
		"00-" + traceText + "-" + spanText + "-0x":                                  none,
		"0x-" + traceText + "-" + spanText + "-01":                                  none,
		"00_" + traceText + "-" + spanText + "-01":                                  none,
		"00-" + traceText + "_" + spanText + "-01":                                  none,
		"00-" + traceText + "-" + spanText + "_01":                                  none,
		"00-" + strings.Replace(traceText, "f", "g", 1) + "-" + spanText + "-01":    none,
		"00-" + traceText + "-" + strings.Replace(spanText, "f", "\xff", 1) + "-01": none,
	} {
		p, ok := ParseParent(text)
		got := none
		if ok {
			got = "unsampled"
			if p.Sampled {
				got = "sampled"
			}
			if hex.EncodeToString(p.Trace[:]) != traceText || hex.EncodeToString(p.ID[:]) != spanText {
				t.Errorf("%q: %+v", text, p)
			}
		}
		if got != want {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
}

// FuzzParseParent compares the parser with the grammar in the recommendation, as a regular
// expression.
func FuzzParseParent(f *testing.F) {
	grammar := regexp.MustCompile(`^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$`)
	for _, s := range []string{sampled, unsampled, "01" + sampled[2:] + "-x", "ff" + sampled[2:], sampled + "-x", "00-" + strings.Repeat("0", 32) + sampled[35:]} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, ok := ParseParent(s)
		m := grammar.FindStringSubmatch(strings.ReplaceAll(s, "\n", "?")) // . does not match it
		valid := m != nil && m[1] != "ff" && m[2] != strings.Repeat("0", 32) && m[3] != strings.Repeat("0", 16) && (m[1] != "00" || m[5] == "")
		if ok != valid {
			t.Fatalf("%q: %v, want %v", s, ok, valid)
		}
		if !ok {
			if p != (Parent{}) {
				t.Errorf("%q is invalid, but parsed as %+v", s, p)
			}
			return
		}
		flags, _ := hex.DecodeString(m[4])
		if hex.EncodeToString(p.Trace[:]) != m[2] || hex.EncodeToString(p.ID[:]) != m[3] || p.Sampled != (flags[0]&1 == 1) {
			t.Errorf("%q became %+v", s, p)
		}
	})
}
