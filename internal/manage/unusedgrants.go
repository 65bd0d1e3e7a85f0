package manage

import (
	"slices"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// unusedGrants returns the ids of the grants through which no read since then is known, in
// the order of the integration. If several grants allow a read, the policy selects one of
// them, and the others count as unused.
func unusedGrants(in *integration.Integration, usage []registry.Usage, since time.Time) []string {
	if in == nil {
		return nil
	}
	used := make(map[string]bool)
	for _, u := range usage {
		switch {
		case u.LastAt.Before(since):
		case u.GrantID != "":
			used[u.GrantID] = true
		case u.Secret == "": // one of too many uses to distinguish: any grant that the principal may use
			for _, g := range in.Policy.Grants() {
				used[g.ID] = used[g.ID] || matchesAny(g.Principals, u.Principal)
			}
		default: // recorded by a release that did not record grants: the grant that would allow it now
			d := in.Policy.Decide(u.Principal, secret.Ref{Kind: in.Kind, Store: u.Store, Name: u.Secret, Key: u.Key})
			if d.Effect == authz.Allowed {
				used[in.Policy.GrantID(d)] = true
			}
		}
	}
	var unused []string
	for _, g := range in.Policy.Grants() {
		if !used[g.ID] {
			unused = append(unused, g.ID)
		}
	}
	return slices.Clip(unused)
}

// matchesAny reports whether one of the patterns, which must be valid, matches who.
func matchesAny(patterns []string, who authz.Principal) bool {
	set, err := authz.NewPrincipals(patterns)
	return err != nil || set.Contains(who)
}
