package authz

import (
	"fmt"
	"slices"
)

// Role is what a principal may do with integrations. No role gives a secret: that
// takes a Grant. The names are part of the wire and of files.
type Role string

// The roles.
const (
	// ResourceOwner may do everything with an integration.
	ResourceOwner Role = "RESOURCE_OWNER"
	// Assigner may look at an integration and grant and revoke its use, and neither
	// change nor delete it.
	Assigner Role = "ASSIGNER"
	// Auditor may look at an integration and at its use, and have decisions
	// explained.
	Auditor Role = "AUDITOR"
)

// AllRoles lists the roles, the strongest first.
var AllRoles = [...]Role{ResourceOwner, Assigner, Auditor}

// Action is something that can be done with integrations.
type Action uint8

// The actions. No role allows the zero Action.
const (
	// ToRead is to look at an integration, its grants and its use.
	ToRead Action = iota + 1
	// ToExplain is to have decisions explained.
	ToExplain
	// ToValidate is to have an integration's stores contacted.
	ToValidate
	// ToAssign is to grant and revoke its use.
	ToAssign
	// ToChange is to change what it is and what it reads.
	ToChange
	// ToDelete is to delete it, even while it is in use.
	ToDelete
	// ToGiveRoles is to say who has which role on it.
	ToGiveRoles
	// ToCreate is to make new integrations.
	ToCreate
	// ToUseMachine is to let an integration use what belongs to the broker's own
	// machine: its identity, its files and its ways into private networks.
	ToUseMachine
)

// allActions lists the actions.
var allActions = [...]Action{ToRead, ToExplain, ToValidate, ToAssign, ToChange, ToDelete, ToGiveRoles, ToCreate, ToUseMachine}

// rights says which roles an action takes.
type rights struct {
	// roles are those that will do, for all integrations or for the one in question.
	roles []Role
	// organisation: only a role for all integrations counts.
	organisation bool
}

func rightsTo(act Action) rights {
	switch act {
	case ToRead, ToExplain:
		roles := []Role{ResourceOwner, Assigner, Auditor}
		if act == ToExplain {
			roles = []Role{ResourceOwner, Auditor}
		}
		return rights{roles: roles}
	case ToValidate, ToAssign:
		return rights{roles: []Role{ResourceOwner, Assigner}}
	case ToChange, ToDelete, ToGiveRoles:
		return rights{roles: []Role{ResourceOwner}}
	case ToCreate, ToUseMachine:
		return rights{roles: []Role{ResourceOwner}, organisation: true}
	default:
		return rights{}
	}
}

// Roles says which principals have which role. It is immutable and safe for
// concurrent use. A nil Roles gives no principal a role.
type Roles struct {
	holders map[Role]*Principals
}

// RoleError is a fault in the patterns of a role; Index is the element.
type RoleError struct {
	Role  Role
	Index int
	Text  string
}

func (e *RoleError) Error() string { return fmt.Sprintf("%s: entry %d: %s", e.Role, e.Index+1, e.Text) }

// NewRoles makes Roles of patterns of principals, as in a grant. The error is a
// *RoleError for the first fault.
func NewRoles(bindings map[Role][]string) (*Roles, error) {
	r := &Roles{holders: make(map[Role]*Principals, len(bindings))}
	for role := range bindings {
		if !slices.Contains(AllRoles[:], role) {
			return nil, &RoleError{Role: role, Text: "there is no such role"}
		}
	}
	for _, role := range AllRoles {
		patterns := bindings[role]
		for i, pattern := range patterns {
			if fault := CheckPrincipalPattern(pattern); fault != "" {
				return nil, &RoleError{Role: role, Index: i, Text: fault}
			}
		}
		r.holders[role] = &Principals{patterns: slices.Clone(patterns)}
	}
	return r, nil
}

// Has reports whether who has the role.
func (r *Roles) Has(role Role, who Principal) bool {
	return r != nil && r.holders[role].Contains(who)
}

// Patterns returns the patterns that have the role. Callers must not change them.
func (r *Roles) Patterns(role Role) []string {
	if r == nil || r.holders[role] == nil {
		return nil
	}
	return r.holders[role].patterns
}

// Authority is who may do what with one integration: by the roles for all
// integrations and by those for this one. The zero Authority allows
// nothing.
type Authority struct {
	Organisation, Integration *Roles
}

// May reports whether who may do it. Where no integration is in question, as with
// ToCreate, a.Integration is nil.
func (a Authority) May(who Principal, act Action) bool {
	need := rightsTo(act)
	return slices.ContainsFunc(need.roles, func(role Role) bool {
		return a.Organisation.Has(role, who) || !need.organisation && a.Integration.Has(role, who)
	})
}

// Locks reports whether who would lose the right to change the integration's roles
// if they were changed to next. Callers refuse such changes: then a principal that
// changes roles remains an owner, and there is always one.
func (a Authority) Locks(who Principal, next *Roles) bool {
	return a.May(who, ToGiveRoles) && !Authority{a.Organisation, next}.May(who, ToGiveRoles)
}
