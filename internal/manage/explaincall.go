package manage

import (
	"context"
	"errors"
	"slices"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/denial"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// errNoAuditor does not depend on whether the integration exists.
var errNoAuditor = secret.Errorf(secret.ReasonAccessDenied,
	"only auditors may ask this; the broker's operator lists them in roles.auditor, and an integration's owner lists the auditors of that integration")

// Explain answers an auditor's question about the integrations in effect. The error is a
// *secret.Error.
func (s *Service) Explain(ctx context.Context, who Caller, q Question) (Answer, error) {
	op := s.begin(who, methodExplain, q.IntegrationID)
	answer, err := s.explain(who.Principal, q)
	if err == nil {
		op.reference, op.subject = reference{answer.ref, answer.Reference}, authz.Principal(q.Principal)
	}
	if err := op.answer(ctx, err); err != nil {
		return Answer{}, err
	}
	return answer, nil
}

func (s *Service) explain(who authz.Principal, q Question) (Answer, error) {
	if err := s.mayExplain(who, q.IntegrationID); err != nil {
		return Answer{}, err
	}
	// Get fails if the integrations in memory are too old for decisions.
	if _, err := s.cfg.Store.Get(q.IntegrationID); err != nil && !errors.Is(err, registry.ErrNotFound) {
		return Answer{}, errorOf("", err)
	}
	integrations := s.cfg.Store.List()
	var err error
	if q.PageSize, err = pageSize(q.PageSize); err != nil {
		return Answer{}, err
	}
	answer, err := Explain(integrations, q)
	if err != nil {
		return Answer{}, err
	}
	for i := range answer.Decisions {
		d := &answer.Decisions[i]
		at := slices.IndexFunc(integrations, func(in *integration.Integration) bool { return in.ID == d.IntegrationID })
		if why := s.cfg.Placement.Admit(authz.Principal(q.Principal), integrations[at]); d.Allowed && why != "" {
			d.Allowed, d.GrantID, d.Explanation = false, "", "a grant allows it, but "+why
		}
		if d.Allowed && s.cfg.Denials.Current().Find(denial.Certificate{Principal: authz.Principal(q.Principal)}, s.cfg.Now()) != nil {
			d.Allowed, d.GrantID, d.Explanation = false, "", "a grant allows it, but the deny list has this principal"
		}
	}
	return answer, nil
}

// mayExplain returns an error unless who may ask about an integration, or about all for "".
// Like mayFind it looks up roles by the principal, so that a caller without a role cannot
// measure which ids exist.
func (s *Service) mayExplain(who authz.Principal, id string) error {
	a := authz.Authority{Organisation: s.cfg.Roles()}
	if a.May(who, authz.ToExplain) {
		return nil
	}
	own, err := s.cfg.Store.WithRole(who)
	if err != nil {
		return errorOf("", err)
	}
	for _, in := range own {
		if a.Integration = in.Roles; in.ID == id && a.May(who, authz.ToExplain) {
			return nil
		}
	}
	return errNoAuditor
}
