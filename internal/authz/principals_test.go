package authz

import "testing"

func TestPrincipals(t *testing.T) {
	set, err := NewPrincipals([]string{"spiffe://example.org/ops/*", "dns:audit.example.org"})
	if err != nil {
		t.Fatal(err)
	}
	for who, want := range map[Principal]bool{
		"spiffe://example.org/ops/a": true, "spiffe://example.org/ops/a/b": false, "spiffe://example.org/ops": false,
		"dns:audit.example.org": true, "dns:audit.example.org.evil.org": false, "": false,
	} {
		if got := set.Contains(who); got != want {
			t.Errorf("%q: %v, want %v", who, got, want)
		}
	}
	var empty *Principals
	if empty.Contains("dns:a") || (&Principals{}).Contains("dns:a") {
		t.Error("an empty set contains a principal")
	}
	if _, err := NewPrincipals([]string{"*"}); err == nil {
		t.Error("the pattern \"*\" was accepted")
	}
}
