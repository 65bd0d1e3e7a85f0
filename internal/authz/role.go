package authz

import (
	"fmt"
	"slices"
)

// Role is a set of permissions to manage integrations. No role allows a principal to
// read a secret: only a Grant does. The names are part of the wire contract and of
// file formats.
type Role string

// The roles.
const (
	// ResourceOwner may perform all actions on an integration.
	ResourceOwner Role = "RESOURCE_OWNER"
	// Assigner may view an integration, and grant and revoke its use. It may neither
	// change nor delete the integration.
	Assigner Role = "ASSIGNER"
	// Auditor may view an integration and its use, and request explanations of
	// decisions.
	Auditor Role = "AUDITOR"
	// Rotator may view an integration and its use, and watch its secrets for changes
	// without a Grant. It is for programs that rotate secrets.
	Rotator Role = "ROTATOR"
)

// AllRoles lists the roles, the strongest first.
var AllRoles = [...]Role{ResourceOwner, Assigner, Auditor, Rotator}

// Action is an operation of managing integrations.
type Action uint8

// The actions. No role allows the zero Action.
const (
	// ToRead is viewing an integration, its grants and its use.
	ToRead Action = iota + 1
	// ToExplain is requesting the explanation of a decision.
	ToExplain
	// ToValidate is making the broker contact an integration's stores.
	ToValidate
	// ToAssign is granting and revoking the use of an integration.
	ToAssign
	// ToChange is changing an integration's settings.
	ToChange
	// ToDelete is deleting an integration, even while it is in use.
	ToDelete
	// ToGiveRoles is changing the roles on an integration.
	ToGiveRoles
	// ToCreate is creating integrations.
	ToCreate
	// ToUseMachine is configuring an integration to use resources of the broker's
	// own machine: its identity, its files and its access to private networks.
	ToUseMachine
	// ToListDenials is reading the deny list.
	ToListDenials
	// ToDeny is changing the deny list.
	ToDeny
	// ToWatch is watching the secrets of an integration for changes, without reading
	// them.
	ToWatch
)

// allActions lists the actions.
var allActions = [...]Action{ToRead, ToExplain, ToValidate, ToAssign, ToChange, ToDelete, ToGiveRoles, ToCreate, ToUseMachine, ToListDenials, ToDeny, ToWatch}

// rights is the roles that allow an action.
type rights struct {
	// roles are the roles that allow the action. Each counts if the principal has it
	// for all integrations or for the integration in question.
	roles []Role
	// organisation means that only a role for all integrations counts.
	organisation bool
}

func rightsTo(act Action) rights {
	switch act {
	case ToRead, ToExplain:
		roles := []Role{ResourceOwner, Assigner, Auditor, Rotator}
		if act == ToExplain {
			roles = []Role{ResourceOwner, Auditor}
		}
		return rights{roles: roles}
	case ToValidate, ToAssign:
		return rights{roles: []Role{ResourceOwner, Assigner}}
	case ToWatch:
		return rights{roles: []Role{ResourceOwner, Rotator}}
	case ToChange, ToDelete, ToGiveRoles:
		return rights{roles: []Role{ResourceOwner}}
	case ToCreate, ToUseMachine, ToDeny:
		return rights{roles: []Role{ResourceOwner}, organisation: true}
	case ToListDenials:
		return rights{roles: []Role{ResourceOwner, Auditor}, organisation: true}
	default:
		return rights{}
	}
}

// Roles maps principals to roles. It is immutable and safe for concurrent use. A nil
// Roles gives no principal a role.
type Roles struct {
	holders map[Role]*Principals
}

// RoleError is an error in the patterns of a role. Index is the position in the list.
type RoleError struct {
	Role  Role
	Index int
	Text  string
}

func (e *RoleError) Error() string { return fmt.Sprintf("%s: entry %d: %s", e.Role, e.Index+1, e.Text) }

// NewRoles returns the Roles that bindings defines, by patterns for principals as in
// a Grant. The error is a *RoleError for the first mistake.
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

// Patterns returns the patterns that have the role. Callers must not modify them.
func (r *Roles) Patterns(role Role) []string {
	if r == nil || r.holders[role] == nil {
		return nil
	}
	return r.holders[role].patterns
}

// Authority is the roles that apply to one integration: those for all integrations
// of the organisation, and those for this integration. The zero Authority allows
// nothing.
type Authority struct {
	Organisation, Integration *Roles
}

// May reports whether who may perform the action. a.Integration is nil if the action
// concerns no existing integration, as with ToCreate.
func (a Authority) May(who Principal, act Action) bool {
	need := rightsTo(act)
	return slices.ContainsFunc(need.roles, func(role Role) bool {
		return a.Organisation.Has(role, who) || !need.organisation && a.Integration.Has(role, who)
	})
}

// Locks reports whether who would lose the right to change the integration's roles if
// they were changed to next. Callers reject such changes. A principal that changes
// roles thus remains an owner, so an integration that has an owner never loses its
// last one.
func (a Authority) Locks(who Principal, next *Roles) bool {
	return a.May(who, ToGiveRoles) && !Authority{a.Organisation, next}.May(who, ToGiveRoles)
}
