package integration

import (
	"testing"
)

// TestDerivedID: the example of the package comment, which others compute as well.
func TestDerivedID(t *testing.T) {
	g := GrantSection{Principals: []string{"dns:a.example.org"}, Secrets: []string{"db-*"}}
	const want = "e027803dc7a1be65d26d86ab006e6a3c"
	if got := g.DerivedID(); got != want || g.GrantID() != want {
		t.Errorf("derived %s, want %s", got, want)
	}
	for name, same := range map[string]GrantSection{
		"with a name":     {ID: "a", Principals: g.Principals, Secrets: g.Secrets},
		"with repetition": {Principals: []string{"dns:a.example.org", "dns:a.example.org"}, Secrets: g.Secrets},
	} {
		if got := same.DerivedID(); got != want || !same.Equal(g) {
			t.Errorf("%s: derived %s", name, got)
		}
	}
	seen := map[string]string{want: "the example"}
	for name, g := range map[string]GrantSection{
		"another principal":        {Principals: []string{"dns:b.example.org"}, Secrets: g.Secrets},
		"no secrets":               {Principals: g.Principals},
		"the name as a key":        {Principals: g.Principals, Keys: g.Secrets},
		"the name as a store":      {Principals: g.Principals, Stores: g.Secrets},
		"an empty text":            {Principals: g.Principals, Secrets: []string{"db-*", ""}},
		"two principals":           {Principals: []string{"dns:a.example.org", "db-*"}},
		"two joined":               {Principals: []string{"dns:a.example.org4:db-*"}},
		"the encoding of the rest": {Principals: []string{"dns:a.example.org0\n1\n4:db-*0\n"}},
	} {
		id := g.DerivedID()
		if other, taken := seen[id]; taken {
			t.Errorf("%s and %s have the same id", name, other)
		}
		seen[id] = name
	}
	a := GrantSection{Principals: []string{"dns:b", "dns:a"}, Keys: []string{"y", "x"}}
	b := GrantSection{Principals: []string{"dns:a", "dns:b"}, Keys: []string{"x", "y"}}
	if !a.Equal(b) || a.Principals[0] != "dns:b" {
		t.Errorf("the order of lists matters, or was changed: %+v, %+v", a, b)
	}
}

func TestWithoutDerivedID(t *testing.T) {
	g := GrantSection{Principals: []string{"dns:a"}}
	derived := g.DerivedID()
	for id, want := range map[string]string{"": "", derived: "", "a": "a", "0" + derived[1:]: "0" + derived[1:]} {
		g.ID = id
		if got := g.WithoutDerivedID(); got.ID != want || g.ID != id {
			t.Errorf("%q became %q", id, got.ID)
		}
	}
}
