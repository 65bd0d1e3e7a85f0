package registry

import (
	"sync"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
)

// RoleIndex finds the integrations on which a principal has a role. It is built at the
// first call after a change, so that brokers without such roles do not pay for it. The
// zero RoleIndex is ready for use. It is safe for concurrent use.
type RoleIndex struct {
	mu      sync.Mutex
	of      []*integration.Integration
	holders *authz.Holders
}

// Find returns those of the integrations on which who has a role, in their order. The
// slice must not change afterwards: the index assumes that the same slice has the same
// content.
func (x *RoleIndex) Find(integrations []*integration.Integration, who authz.Principal) []*integration.Integration {
	var found []*integration.Integration
	for _, i := range x.index(integrations).Of(who) {
		found = append(found, integrations[i])
	}
	return found
}

func (x *RoleIndex) index(integrations []*integration.Integration) *authz.Holders {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.holders == nil || !same(x.of, integrations) {
		roles := make([]*authz.Roles, len(integrations))
		for i, in := range integrations {
			roles[i] = in.Roles
		}
		x.of, x.holders = integrations, authz.NewHolders(roles)
	}
	return x.holders
}

// same reports whether two slices share the same array and length.
func same(a, b []*integration.Integration) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
