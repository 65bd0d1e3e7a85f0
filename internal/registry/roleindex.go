package registry

import (
	"sync"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
)

// RoleIndex finds the integrations on which a principal has a role of their own. It
// is made when it is first asked after a change, so that brokers whose integrations
// nobody manages do without, and then holds until the next change. The zero
// RoleIndex is ready for use. It is safe for concurrent use.
type RoleIndex struct {
	mu      sync.Mutex
	of      []*integration.Integration
	holders *authz.Holders
}

// Find returns those of the integrations on which who has a role, in their order.
// The slice must not change afterwards: the same one is taken to mean the same.
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

// same reports whether two slices are one.
func same(a, b []*integration.Integration) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
