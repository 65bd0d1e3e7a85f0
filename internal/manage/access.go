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

// authority returns the roles on the integration of rec, or the roles on all for nil.
func (s *Service) authority(rec *registry.Record) authz.Authority {
	a := authz.Authority{Organisation: s.cfg.Roles()}
	if rec != nil && rec.Integration != nil {
		a.Integration = rec.Integration.Roles
	}
	return a
}

// needs describes the role that an action requires, for refusals.
var needs = map[authz.Action]string{
	authz.ToRead:        "a role on it",
	authz.ToValidate:    "the role RESOURCE_OWNER or ASSIGNER on it",
	authz.ToAssign:      "the role RESOURCE_OWNER or ASSIGNER on it",
	authz.ToChange:      "the role RESOURCE_OWNER on it",
	authz.ToDelete:      "the role RESOURCE_OWNER on it",
	authz.ToGiveRoles:   "the role RESOURCE_OWNER on it",
	authz.ToCreate:      "the role RESOURCE_OWNER for all integrations (roles.resource_owner in secretbroker.yaml)",
	authz.ToListDenials: "the role RESOURCE_OWNER or AUDITOR for all integrations (roles.resource_owner and roles.auditor in secretbroker.yaml)",
	authz.ToDeny:        "the role RESOURCE_OWNER for all integrations (roles.resource_owner in secretbroker.yaml)",
	authz.ToUseMachine:  "the role RESOURCE_OWNER for all integrations (roles.resource_owner in secretbroker.yaml)",
}

// errNoRole is the only answer to a caller without a role. It does not depend on whether
// the integration exists.
var errNoRole = secret.Errorf(secret.ReasonAccessDenied,
	"this caller has no role on this integration, or there is no such integration; ask the broker's operator or the integration's owner")

// readsAll reports whether who has a role for all integrations.
func (s *Service) readsAll(who authz.Principal) bool {
	return authz.Authority{Organisation: s.cfg.Roles()}.May(who, authz.ToRead)
}

// mayFind returns errNoRole unless who has a role on an integration, according to the roles
// in memory. It does the same work whether or not the id exists, so that a caller without a
// role cannot measure which ids exist: it does not ask the store for the id, and looks up
// roles by the principal.
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

// loadToChange returns an integration on which who may do act, to derive a change from it.
// A change is derived from the newest state, also if another replica has just made it;
// without this, a grant would be left out because it had existed until a moment ago. A
// change that is only validated is derived from the state in memory, unless that does not
// have the caller's etag.
func (s *Service) loadToChange(ctx context.Context, who authz.Principal, id string, act authz.Action, o WriteOptions) (*registry.Record, error) {
	if o.ValidateOnly {
		rec, err := s.load(ctx, who, id, act)
		if err != nil || rec.File != "" || o.ETag == "" || o.ETag == rec.ETag {
			return rec, readOnly(rec, err)
		}
	}
	if err := s.mayFind(who, id); err != nil { // a caller without a role must cause no work
		return nil, err
	}
	if err := s.cfg.Store.Refresh(ctx); err != nil {
		return nil, errorOf("", err)
	}
	rec, err := s.load(ctx, who, id, act)
	if err := readOnly(rec, err); err != nil {
		return nil, err
	}
	if o.ETag != "" && o.ETag != rec.ETag {
		return nil, errorOf("", registry.ErrConflict)
	}
	return rec, nil
}

// readOnly returns err or, if rec is a file, the error of a change.
func readOnly(rec *registry.Record, err error) error {
	if err == nil && rec.File != "" {
		return errorOf("", registry.ErrReadOnly)
	}
	return err
}

// load returns an integration on which who may do act, from memory.
func (s *Service) load(ctx context.Context, who authz.Principal, id string, act authz.Action) (*registry.Record, error) {
	if err := s.mayFind(who, id); err != nil {
		return nil, err
	}
	if !integration.ValidID(id) {
		return nil, secret.Errorf(secret.ReasonInvalidRequest, "integration_id: expected %s", integration.IDRule)
	}
	rec, err := s.cfg.Store.Record(ctx, id)
	switch {
	case errors.Is(err, registry.ErrNotFound) && !s.readsAll(who): // deleted meanwhile
		return nil, errNoRole
	case err != nil:
		return nil, errorOf("", err)
	}
	a := s.authority(&rec)
	switch {
	case !a.May(who, authz.ToRead):
		return nil, errNoRole
	case !a.May(who, act):
		return nil, secret.Errorf(secret.ReasonAccessDenied, "this requires %s", needs[act])
	}
	return &rec, nil
}
