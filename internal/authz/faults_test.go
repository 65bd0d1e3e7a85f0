package authz

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	wantPrincipal = `expected a SPIFFE ID ("spiffe://...") or "dns:HOST"`
	wantHost      = `expected dns:HOST in lower case, or dns:*.DOMAIN for the hosts directly below a domain`
	wantDomain    = `expected dns:*.DOMAIN in lower case`
	starAtEnd     = `"*" is only allowed at the end, where it matches the rest of one path segment; "/**" at the end matches everything below`
	openDomain    = `a pattern must name the complete trust domain`
	wantName      = `expected a secret's name, or a prefix followed by one "*"`
	wantKey       = `expected a JSON key, or a prefix followed by one "*"`
	foreignVault  = `not a store of the integration; add it to the integration first`
)

func TestPrincipalPatternFaults(t *testing.T) {
	for text, patterns := range map[string][]string{
		wantPrincipal: {
			"", "*", "**", "worker-1", " spiffe://example.org/a", "SPIFFE://example.org/a", "DNS:a.example.org", "https://example.org",
		},
		wantHost: {
			"dns:", "dns:*", "dns:a.*.example.org", "dns:wor*.example.org", "dns:Worker.example.org", "dns:worker.example.org.",
			"dns:worker.example.org ", "dns:wor\u212aer.example.org", "dns:**.example.org",
		},
		wantDomain: {
			"dns:*.", "dns:*.*.example.org", "dns:*.Example.org",
		},
		openDomain: {
			"spiffe://*", "spiffe://**", "spiffe://***", "spiffe://example.*", "spiffe://example.org*", "spiffe://*/connect",
			"spiffe://*.example.org/*",
		},
		starAtEnd: {
			"spiffe://example.org/*/worker", "spiffe://example.org/**/worker", "spiffe://example.org/a**", "spiffe://example.org/***",
			"spiffe://example.org/*/**", "spiffe://example.org/*/*",
		},
		"not a SPIFFE ID: ": {
			"spiffe://", "spiffe:///worker", "spiffe:///*", "spiffe:///**", "spiffe://Example.org/a", "spiffe://example.org/",
			"spiffe://example.org/a/", "spiffe://example.org//**", "spiffe://example.org/a//*", "spiffe://example.org/../a",
			"spiffe://example.org/./*", "spiffe://example.org/a%2fb", "spiffe://example.org/a?x", "spiffe://example.org:443/a",
			"spiffe://user@example.org/a", "spiffe://example.org/\u0131",
		},
	} {
		for _, pattern := range patterns {
			p, err := NewPolicy(secret.KindAzureKeyVault, nil, []Grant{{Principals: []string{"spiffe://example.org/good", pattern}}})
			var fault *GrantError
			if p != nil || !errors.As(err, &fault) {
				t.Errorf("principal %q: policy %v, error %v", pattern, p, err)
				continue
			}
			if fault.Grant != 0 || fault.Field != "principals" || fault.Index != 1 || !strings.HasPrefix(fault.Text, text) {
				t.Errorf("principal %q: %v, want %q", pattern, fault, text)
			}
		}
	}
}

func TestNarrowingFaults(t *testing.T) {
	someone := []string{"dns:a.example.org"}
	for _, tt := range []struct {
		name  string
		grant Grant
		want  []GrantError
	}{
		{"no principals", Grant{}, []GrantError{{1, "principals", -1, "a grant needs at least one principal"}}},
		{"empty principals", Grant{Principals: []string{}}, []GrantError{{1, "principals", -1, "a grant needs at least one principal"}}},
		{"empty stores", Grant{Principals: someone, Stores: []string{}},
			[]GrantError{{1, "stores", -1, "the list is empty; leave it out to allow every store of the integration"}}},
		{"empty secrets", Grant{Principals: someone, Secrets: []string{}},
			[]GrantError{{1, "secrets", -1, "the list is empty; leave it out to allow every secret"}}},
		{"empty keys", Grant{Principals: someone, Keys: []string{}},
			[]GrantError{{1, "keys", -1, "the list is empty; leave it out to allow every key and the whole secret"}}},
		{"stores", Grant{Principals: someone, Stores: []string{prod, other, "prod"}}, []GrantError{
			{1, "stores", 1, foreignVault},
			{1, "stores", 2, "not a vault: the store does not begin with https://; expected https://NAME.vault.azure.net"},
		}},
		{"secrets", Grant{Principals: someone, Secrets: []string{"ok", "", "**", "a*b", "*a", "a_b", "a/b", "\u212a", "a ", strings.Repeat("a", 128)}}, []GrantError{
			{1, "secrets", 1, wantName}, {1, "secrets", 2, wantName}, {1, "secrets", 3, wantName}, {1, "secrets", 4, wantName}, {1, "secrets", 5, wantName},
			{1, "secrets", 6, wantName}, {1, "secrets", 7, wantName}, {1, "secrets", 8, wantName}, {1, "secrets", 9, wantName},
		}},
		{"keys", Grant{Principals: someone, Keys: []string{"ok", "", "**", "a*b", "*a", "\xff"}}, []GrantError{
			{1, "keys", 1, wantKey}, {1, "keys", 2, wantKey}, {1, "keys", 3, wantKey}, {1, "keys", 4, wantKey}, {1, "keys", 5, wantKey},
		}},
		{"everything at once", Grant{Principals: []string{"x"}, Stores: []string{other}, Secrets: []string{"_"}, Keys: []string{""}}, []GrantError{
			{1, "stores", 0, foreignVault}, {1, "keys", 0, wantKey}, {1, "secrets", 0, wantName}, {1, "principals", 0, wantPrincipal},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := NewPolicy(secret.KindAzureKeyVault, []string{prod}, []Grant{{Principals: someone}, tt.grant})
			if p != nil || err == nil {
				t.Fatalf("NewPolicy = %v, %v, want an error alone", p, err)
			}
			var got []GrantError
			for _, fault := range err.(interface{ Unwrap() []error }).Unwrap() {
				var e *GrantError
				if !errors.As(fault, &e) {
					t.Fatalf("fault %v is no *GrantError", fault)
				}
				got = append(got, *e)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

func TestGrantErrorText(t *testing.T) {
	for _, tt := range []struct {
		err  GrantError
		want string
	}{
		{GrantError{2, "keys", -1, "the list is empty"}, "grants[2].keys: the list is empty"},
		{GrantError{0, "principals", 3, "bad"}, "grants[0].principals[3]: bad"},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("Error() = %q, want %q", got, tt.want)
		}
	}
}
