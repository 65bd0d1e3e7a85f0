package authz

import (
	"errors"
	"math/rand/v2"
	"testing"
)

func roles(t *testing.T, bindings map[Role][]string) *Roles {
	t.Helper()
	r, err := NewRoles(bindings)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestMay is the whole table: every action by every kind of principal.
func TestMay(t *testing.T) {
	const (
		orgOwner, orgAssigner, orgAuditor, orgRotator = "dns:org-owner", "dns:org-assigner", "dns:org-auditor", "dns:org-rotator"
		owner, assigner, auditor, rotator             = "dns:owner", "dns:assigner", "dns:auditor", "dns:rotator"
		stranger                                      = "dns:stranger"
	)
	a := Authority{
		Organisation: roles(t, map[Role][]string{ResourceOwner: {orgOwner}, Assigner: {orgAssigner}, Auditor: {orgAuditor}, Rotator: {orgRotator}}),
		Integration:  roles(t, map[Role][]string{ResourceOwner: {owner}, Assigner: {assigner}, Auditor: {auditor}, Rotator: {rotator}}),
	}
	may := map[Action][]Principal{
		ToRead:       {orgOwner, orgAssigner, orgAuditor, orgRotator, owner, assigner, auditor, rotator},
		ToExplain:    {orgOwner, orgAuditor, owner, auditor},
		ToValidate:   {orgOwner, orgAssigner, owner, assigner},
		ToAssign:     {orgOwner, orgAssigner, owner, assigner},
		ToChange:     {orgOwner, owner},
		ToDelete:     {orgOwner, owner},
		ToGiveRoles:  {orgOwner, owner},
		ToCreate:     {orgOwner},
		ToUseMachine: {orgOwner},

		ToListDenials: {orgOwner, orgAuditor},
		ToDeny:        {orgOwner},
		ToWatch:       {orgOwner, orgRotator, owner, rotator},
	}
	for _, act := range append(allActions[:], 0, ToWatch+1) {
		if _, ok := may[act]; !ok && act != 0 && act <= ToWatch {
			t.Errorf("action %d has no expectation", act)
		}
		for _, who := range []Principal{orgOwner, orgAssigner, orgAuditor, orgRotator, owner, assigner, auditor, rotator, stranger, ""} {
			want := false
			for _, p := range may[act] {
				want = want || p == who
			}
			if got := a.May(who, act); got != want {
				t.Errorf("%q, action %d: %v, want %v", who, act, got, want)
			}
			if (Authority{}).May(who, act) {
				t.Errorf("%q may do %d, but no principal has a role", who, act)
			}
		}
	}
}

func TestNewRolesFaults(t *testing.T) {
	var e *RoleError
	if _, err := NewRoles(map[Role][]string{Assigner: {"dns:a", "*"}}); !errors.As(err, &e) || e.Role != Assigner || e.Index != 1 {
		t.Errorf("got %v", err)
	}
	if _, err := NewRoles(map[Role][]string{"ADMIN": {"dns:a"}}); !errors.As(err, &e) || e.Role != "ADMIN" {
		t.Errorf("got %v", err)
	}
}

// TestNobodyGetsMoreThanGiven applies random changes of roles, each by a principal
// that may change them and does not lock itself out. Afterwards an owner remains,
// only owners have changed roles, and roles on one integration allow nothing on
// others.
func TestNobodyGetsMoreThanGiven(t *testing.T) {
	callers := []Principal{"spiffe://td/a/1", "spiffe://td/a/2", "spiffe://td/b/1", "dns:h1.x.org", "dns:h2.x.org"}
	patterns := []string{"spiffe://td/a/1", "spiffe://td/a/*", "spiffe://td/b/**", "spiffe://td/**", "dns:*.x.org", "dns:h1.x.org"}
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		random := func() *Roles {
			b := map[Role][]string{}
			for _, role := range AllRoles {
				for range rnd.IntN(3) {
					b[role] = append(b[role], patterns[rnd.IntN(len(patterns))])
				}
			}
			return roles(t, b)
		}
		a := Authority{Organisation: &Roles{}, Integration: roles(t, map[Role][]string{ResourceOwner: {string(callers[0])}})}
		for step := range 50 {
			who, next := callers[rnd.IntN(len(callers))], random()
			if !a.May(who, ToGiveRoles) || a.Locks(who, next) {
				continue
			}
			if !a.Integration.Has(ResourceOwner, who) {
				t.Fatalf("seed %d: %s gave roles without being an owner", seed, who)
			}
			a.Integration = next
			owners := 0
			for _, p := range callers {
				if a.May(p, ToGiveRoles) {
					owners++
				}
				if a.May(p, ToCreate) || a.May(p, ToUseMachine) {
					t.Fatalf("seed %d: %s may do what takes a role for all integrations", seed, p)
				}
			}
			if owners == 0 {
				t.Fatalf("seed %d, step %d: there is no owner any more", seed, step)
			}
		}
	}
}

func TestLocks(t *testing.T) {
	const a, b = Principal("dns:a"), Principal("dns:b")
	owned := func(by ...string) *Roles { return roles(t, map[Role][]string{ResourceOwner: by}) }
	org := owned("dns:org")
	for _, tt := range []struct {
		who  Principal
		next *Roles
		want bool
	}{
		{a, owned("dns:a", "dns:b"), false},
		{a, owned("dns:b"), true},
		{a, owned(), true},
		{a, nil, true},
		{"dns:org", owned(), false}, // who remains an owner of all
		{b, owned(), false},         // who has nothing to lose
	} {
		if got := (Authority{org, owned("dns:a")}).Locks(tt.who, tt.next); got != tt.want {
			t.Errorf("%s to %v: %v", tt.who, tt.next.Patterns(ResourceOwner), got)
		}
	}
}
