package authz

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// Holders agrees with examining each Roles in turn.
func TestHolders(t *testing.T) {
	callers := []Principal{"", "spiffe://td/a/1", "spiffe://td/a/12", "spiffe://td/a", "spiffe://td/a/b/c", "spiffe://td", "spiffe://other/a/1", "dns:h1.x.org", "dns:h2.x.org", "dns:x.org", "dns:org"}
	patterns := []string{
		"spiffe://td/a/1", "spiffe://td/a/*", "spiffe://td/a/1*", "spiffe://td/a/**", "spiffe://td/a*", "spiffe://td/**", "spiffe://td/*",
		"spiffe://td", "spiffe://other/**", "dns:h1.x.org", "dns:*.x.org", "dns:*.org", "dns:x.org",
	}
	found := 0
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		all := make([]*Roles, rnd.IntN(8))
		for i := range all {
			if rnd.IntN(4) == 0 {
				continue // nil
			}
			b := map[Role][]string{}
			for _, role := range AllRoles {
				for range rnd.IntN(3) {
					b[role] = append(b[role], patterns[rnd.IntN(len(patterns))])
				}
			}
			all[i] = roles(t, b)
		}
		h := NewHolders(all)
		for _, who := range callers {
			var want []int
			for i, r := range all {
				if (Authority{Integration: r}).May(who, ToRead) {
					want = append(want, i)
				}
			}
			found += len(want)
			if got := h.Of(who); !slices.Equal(got, want) {
				t.Errorf("seed %d: %q has a role in %v, want %v", seed, who, got, want)
			}
		}
	}
	if found < 1000 {
		t.Errorf("only %d roles were found", found)
	}
}
