package manage

import (
	"github.com/secretbroker/secretbroker/internal/authz"
)

// RoleHeld is a role of a caller.
type RoleHeld struct {
	Role authz.Role
	// All reports that the caller has the role for all integrations. Otherwise Integrations
	// is the number of those on which it has the role.
	All          bool
	Integrations int
}

// Self is what a caller may know about itself.
type Self struct {
	// Roles are the caller's roles, the strongest first.
	Roles []RoleHeld
	// Usable is the number of integrations that have a grant for the caller and admit it.
	// Their ids are not part of the answer: a thief with the caller's key may not know them.
	Usable int
}

// WhoAmI returns what the broker knows about the caller. It needs no role, and the call is
// not recorded, because it concerns no secret and no other principal: any client with a
// certificate could fill the audit log.
func (s *Service) WhoAmI(who Caller) (Self, error) {
	var self Self
	if who.Principal == "" {
		return self, nil
	}
	own, err := s.cfg.Store.WithRole(who.Principal)
	if err != nil {
		return self, errorOf("", err)
	}
	organisation := s.cfg.Roles()
	for _, role := range authz.AllRoles {
		held := RoleHeld{Role: role, All: organisation.Has(role, who.Principal)}
		for _, in := range own {
			if !held.All && in.Roles.Has(role, who.Principal) {
				held.Integrations++
			}
		}
		if held.All || held.Integrations > 0 {
			self.Roles = append(self.Roles, held)
		}
	}
	for _, in := range s.cfg.Store.List() {
		if in.Policy.HasGrant(who.Principal) && s.cfg.Placement.Admit(who.Principal, in) == "" {
			self.Usable++
		}
	}
	return self, nil
}
