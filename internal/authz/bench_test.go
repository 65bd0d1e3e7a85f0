package authz

import (
	"fmt"
	"testing"
)

func TestDecideDoesNotAllocate(t *testing.T) {
	p := manyGrants(t, 1000)
	for _, q := range manyGrantsQuestions {
		who, ref := Principal(q.who), mustRef(t, q.ref)
		if n := testing.AllocsPerRun(100, func() { p.Decide(who, ref) }); n != 0 {
			t.Errorf("Decide(%s, %s): %v allocations, want none", q.who, q.ref, n)
		}
	}
	ask(t, p, manyGrantsQuestions...)
}

// manyGrants is the policy of a large platform: one grant for each team's
// connectors, its secrets named by prefix.
func manyGrants(t testing.TB, n int) *Policy {
	grants := make([]Grant, n)
	for i := range grants {
		principals := []string{
			fmt.Sprintf("spiffe://example.org/team-%d/connect/worker-*", i),
			fmt.Sprintf("spiffe://example.org/team-%d/jobs/**", i),
			fmt.Sprintf("dns:*.team-%d.example.org", i),
			fmt.Sprintf("dns:team-%d.example.org", i),
		}
		grants[i] = Grant{Principals: principals[:1+i%4], Secrets: []string{fmt.Sprintf("team-%d-*", i), "shared"}, Keys: []string{"password", "user*"}}
	}
	return mustPolicy(t, []string{prod, stage}, grants...)
}

// The answers of manyGrants with eight grants and more.
var manyGrantsQuestions = []question{
	allow(7, "spiffe://example.org/team-7/connect/worker-1", prod+"::team-7-db::password"),
	allow(7, "spiffe://example.org/team-7/jobs/nightly/eu/1", prod+"::shared::username"),
	allow(7, "dns:a.team-7.example.org", prod+"::team-7-db::user"),
	allow(7, "dns:team-7.example.org", stage+"::team-7-db::password"),
	outside(7, "dns:team-7.example.org", other+"::team-7-db::password"),
	deny("spiffe://example.org/team-7/connect/worker-1", prod+"::team-6-db::password"),
	deny("spiffe://example.org/stranger", prod+"::shared::password"),
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 1_000, 100_000} {
		b.Run(fmt.Sprintf("grants=%d", n), func(b *testing.B) {
			p := manyGrants(b, n)
			who, ref := Principal(manyGrantsQuestions[0].who), mustRef(b, manyGrantsQuestions[0].ref)
			b.ReportAllocs()
			for b.Loop() {
				if p.Decide(who, ref).Effect != Allowed {
					b.Fatal("denied")
				}
			}
		})
	}
}
