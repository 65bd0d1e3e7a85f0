package authz

import "slices"

// Holders is an index of many Roles by pattern. It finds those in which a principal
// has a role without examining each. It is immutable and safe for concurrent use.
type Holders struct {
	// at maps a pattern to the indices of the Roles that contain it, in ascending
	// order.
	at map[string][]int
}

// NewHolders returns an index of roles. Elements of roles may be nil; they give no
// principal a role.
func NewHolders(roles []*Roles) *Holders {
	h := &Holders{at: make(map[string][]int)}
	for i, r := range roles {
		for _, role := range AllRoles {
			for _, pattern := range r.Patterns(role) {
				if at := h.at[pattern]; len(at) == 0 || at[len(at)-1] != i {
					h.at[pattern] = append(at, i)
				}
			}
		}
	}
	return h
}

// Of returns the indices of the Roles in which who has a role, in ascending order.
func (h *Holders) Of(who Principal) []int {
	if who == "" {
		return nil
	}
	var all []int
	for _, pattern := range patternsOver(string(who)) {
		all = append(all, h.at[pattern]...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}
