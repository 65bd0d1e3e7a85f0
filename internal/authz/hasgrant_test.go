package authz

import (
	"testing"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestHasGrant compares HasGrant with Decide, for policies that allow every secret.
func TestHasGrant(t *testing.T) {
	const store = "https://abc.vault.azure.net"
	principals := []Principal{
		"", "spiffe://example.org/a", "spiffe://example.org/a/b", "spiffe://example.org/a/bc", "spiffe://example.org/a/b/c",
		"spiffe://other.org/a/b", "dns:a.example.org", "dns:b.example.org", "dns:x.a.example.org",
	}
	patterns := []string{
		"spiffe://example.org/a", "spiffe://example.org/a/b", "spiffe://example.org/a/b*", "spiffe://example.org/a/*",
		"spiffe://example.org/a/**", "spiffe://example.org/**", "dns:a.example.org", "dns:*.example.org",
	}
	granted := 0
	for _, pattern := range patterns {
		p, err := NewPolicy(secret.KindAzureKeyVault, []string{store}, []Grant{{ID: "g", Principals: []string{pattern}}})
		if err != nil {
			t.Fatal(err)
		}
		for _, who := range principals {
			want := p.Decide(who, secret.Ref{Kind: secret.KindAzureKeyVault, Store: store, Name: "n"}).Effect == Allowed
			if got := p.HasGrant(who); got != want {
				t.Errorf("%s: HasGrant(%q) is %v, want %v", pattern, who, got, want)
			}
			if want {
				granted++
			}
		}
	}
	if granted < len(patterns) {
		t.Errorf("only %d pairs are granted", granted)
	}
	if (*Policy)(nil).HasGrant("spiffe://example.org/a") {
		t.Error("a nil policy grants")
	}
}
