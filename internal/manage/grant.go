package manage

import (
	"cmp"
	"context"
	"slices"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Grant adds a grant. It does nothing if the integration has a grant that allows the same
// and, if g has an ID, has this id.
func (s *Service) Grant(ctx context.Context, who Caller, id string, g Grant, o WriteOptions) (Integration, error) {
	in, _, err := s.edit(ctx, who, methodGrant, authz.ToAssign, id, nil, o, func(before *Document) (*Document, error) {
		after := *before
		if !slices.ContainsFunc(before.Grants, sameGrant(g)) {
			after.Grants = append(slices.Clone(before.Grants), g.WithoutDerivedID())
		}
		return &after, nil
	})
	return in, err
}

// Revoke removes the grant with the id of g, or all grants that allow the same as g. If g
// has an ID and lists, a grant must match both.
func (s *Service) Revoke(ctx context.Context, who Caller, id string, g Grant, o WriteOptions) (Integration, error) {
	in, _, err := s.edit(ctx, who, methodRevoke, authz.ToAssign, id, nil, o, func(before *Document) (*Document, error) {
		after := *before
		after.Grants = slices.DeleteFunc(slices.Clone(before.Grants), sameGrant(g))
		if len(after.Grants) == len(before.Grants) {
			return nil, secret.Errorf(secret.ReasonInvalidRequest, "the integration has no such grant; give the id of an existing grant, or exactly its lists")
		}
		return &after, nil
	})
	return in, err
}

// sameGrant returns a function that reports whether a grant is the one that g identifies:
// by its id, its lists, or both.
func sameGrant(g Grant) func(Grant) bool {
	id, content := g.ID, g.DerivedID()
	if id != "" && len(g.Principals)+len(g.Stores)+len(g.Secrets)+len(g.Keys) == 0 {
		return func(other Grant) bool { return other.GrantID() == id }
	}
	return func(other Grant) bool {
		derived := other.DerivedID()
		return derived == content && (id == "" || cmp.Or(other.ID, derived) == id)
	}
}
