package manage

import (
	"context"
	"errors"
	"slices"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// authority is who may do what with the integration of rec.
func (s *Service) authority(rec *registry.Record) authz.Authority {
	a := authz.Authority{Organisation: s.cfg.Roles()}
	if rec != nil && rec.Integration != nil {
		a.Integration = rec.Integration.Roles
	}
	return a
}

// needs is what a refusal says of who may do something.
var needs = map[authz.Action]string{
	authz.ToRead:       "a role on it",
	authz.ToValidate:   "the role RESOURCE_OWNER or ASSIGNER on it",
	authz.ToAssign:     "the role RESOURCE_OWNER or ASSIGNER on it",
	authz.ToChange:     "the role RESOURCE_OWNER on it",
	authz.ToDelete:     "the role RESOURCE_OWNER on it",
	authz.ToGiveRoles:  "the role RESOURCE_OWNER on it",
	authz.ToCreate:     "the role RESOURCE_OWNER for all integrations (roles.resource_owner in broker.yaml)",
	authz.ToUseMachine: "the role RESOURCE_OWNER for all integrations (roles.resource_owner in broker.yaml)",
}

// errNoRole is all that somebody learns who has no role: it is the same whether or
// not there is such an integration.
var errNoRole = secret.Errorf(secret.ReasonAccessDenied,
	"this caller has no role on this integration, or there is no such integration; ask the broker's operator or the integration's owner")

// readsAll reports whether who has a role for all integrations.
func (s *Service) readsAll(who authz.Principal) bool {
	return authz.Authority{Organisation: s.cfg.Roles()}.May(who, authz.ToRead)
}

// mayFind fails with errNoRole unless who has a role on an integration, by the
// roles that are in memory. It does the same whether or not there is one of that
// id, so that nobody without a role can measure which ids are there: the store is
// not asked for the id, and roles are found from the side of the principal.
func (s *Service) mayFind(who authz.Principal, id string) error {
	if s.readsAll(who) {
		return nil
	}
	own, err := s.cfg.Store.WithRole(who)
	if err != nil {
		return errorOf("", err)
	}
	if !slices.ContainsFunc(own, func(in *integration.Integration) bool { return in.ID == id }) {
		return errNoRole
	}
	return nil
}

// load returns an integration with which who may do act.
func (s *Service) load(ctx context.Context, who authz.Principal, id string, act authz.Action) (*registry.Record, error) {
	if err := s.mayFind(who, id); err != nil {
		return nil, err
	}
	if !integration.ValidID(id) {
		return nil, secret.Errorf(secret.ReasonInvalidRequest, "integration_id: expected 1 to 64 letters, digits, dots, underscores and hyphens")
	}
	rec, err := s.cfg.Store.Record(ctx, id)
	switch {
	case errors.Is(err, registry.ErrNotFound) && !s.readsAll(who): // deleted just now
		return nil, errNoRole
	case err != nil:
		return nil, errorOf("", err)
	}
	a := s.authority(&rec)
	switch {
	case !a.May(who, authz.ToRead):
		return nil, errNoRole
	case !a.May(who, act):
		return nil, secret.Errorf(secret.ReasonAccessDenied, "that takes %s", needs[act])
	}
	return &rec, nil
}
