package authz

import (
	"slices"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func TestDNSPrincipal(t *testing.T) {
	label := strings.Repeat("a", 63)
	for _, tt := range []struct {
		in   string
		want Principal
	}{
		{"worker-1.example.org", "dns:worker-1.example.org"},
		{"Worker-1.EXAMPLE.org", "dns:worker-1.example.org"},
		{"localhost", "dns:localhost"},
		{"_sip.example.org", "dns:_sip.example.org"},
		{label + ".example.org", Principal("dns:" + label + ".example.org")},
		{"", ""},
		{"*.example.org", ""},
		{"*", ""},
		{"example.org.", ""},
		{".example.org", ""},
		{"a..b", ""},
		{"-a.example.org", ""},
		{"a-.example.org", ""},
		{"a b.example.org", ""},
		{"a/b", ""},
		{"a:443", ""},
		{"dns:a", ""},
		{"a\x00.example.org", ""},
		{"wor\u212aer.example.org", ""}, // Kelvin sign, whose lower case is k
		{"m\u0130ke.example.org", ""},   // dotted I, whose lower case is i
		{"\u0131.example.org", ""},
		{label + "a.example.org", ""},
		{strings.Repeat("a.", 127), ""},
	} {
		got, ok := DNSPrincipal(tt.in)
		if got != tt.want || ok != (tt.want != "") {
			t.Errorf("DNSPrincipal(%q) = %q, %v, want %q", tt.in, got, ok, tt.want)
		}
	}
}

func TestSPIFFEPrincipal(t *testing.T) {
	id := spiffeid.RequireFromString("spiffe://example.org/connect/worker-1")
	if got := SPIFFEPrincipal(id); got != "spiffe://example.org/connect/worker-1" {
		t.Errorf("SPIFFEPrincipal = %q", got)
	}
	if got := SPIFFEPrincipal(spiffeid.ID{}); got != "" {
		t.Errorf("SPIFFEPrincipal of no ID = %q, want nobody", got)
	}
}

func TestAncestors(t *testing.T) {
	for _, tt := range []struct {
		who  Principal
		want []string
	}{
		{"spiffe://td/a/b", []string{"spiffe://td/a/ b", "spiffe://td/ a/b"}},
		{"spiffe://td", nil},
		{"spiffe://", nil},
		{"dns:a.b/c", nil},
		{"", nil},
	} {
		var got []string
		tt.who.ancestors(func(dir, rest string) bool {
			got = append(got, dir+" "+rest)
			return true
		})
		if !slices.Equal(got, tt.want) {
			t.Errorf("ancestors of %q: %q, want %q", tt.who, got, tt.want)
		}
	}
}
